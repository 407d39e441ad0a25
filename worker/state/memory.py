"""What a task remembers at its site from one local training to the next: ``plan.memory``, named tensors and numbers.

It is carried like everything else that stays here: what a training wrote counts once its update is on its way, and a
training that is repeated begins with what the first one began with.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch

from broker.states import State, specs_of
from console import TaskError, UnfitMessage
from worker.state.carried import Carried

MEMORY, NUMBERS = "memory", "numbers"
"""The names of its sets in what is carried: tensors, and numbers as tensors without dimensions."""
_LARGEST = 2**63


class Memory(MutableMapping[str, Any]):
    """Tensors, ints and floats by name, for one training; what it is made of is not changed by what is done to it."""

    def __init__(self, carried: Carried) -> None:
        tensors = {name: tensor.clone() for name, tensor in carried.sets.get(MEMORY, {}).items()}
        numbers = {name: tensor.item() for name, tensor in carried.sets.get(NUMBERS, {}).items()}
        self._values: dict[str, Any] = {**tensors, **numbers}

    def sets(self) -> Mapping[str, State]:
        """What is to be carried, as it is now; a TaskError names a value that cannot be."""
        tensors: dict[str, torch.Tensor] = {}
        numbers: dict[str, torch.Tensor] = {}
        for name, value in self._values.items():
            if isinstance(value, torch.Tensor):
                tensors[name] = _copied(name, value)
            else:
                numbers[name] = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
        return {MEMORY: tensors, NUMBERS: numbers}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: Any, value: Any) -> None:
        if not isinstance(name, str) or not name:
            raise TaskError(f"plan.memory has names of text, not {name!r}")
        if not isinstance(value, torch.Tensor | int | float) or isinstance(value, bool):
            raise TaskError(f"plan.memory[{name!r}] cannot be of type {type(value).__name__}; {_EXPECTED}")
        if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            raise TaskError(f"plan.memory[{name!r}] is an int of more than 64 bits")
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Memory({', '.join(self)})"


_EXPECTED = "it holds tensors, ints and floats, each under a name of its own"


def _copied(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A copy that nobody else changes."""
    try:
        copy = tensor.detach().to("cpu", copy=True).contiguous()
        specs_of({name: copy})
    except (UnfitMessage, RuntimeError) as error:
        raise TaskError(f"plan.memory[{name!r}] cannot be kept: {error}; {_EXPECTED}") from error
    return copy
