"""The safetensors file whose tensors a new run begins with, such as the last model of another run."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from broker.modules import ModelTensors
from broker.states import DTYPES, State, first_not_finite
from broker.wire import Specs, TensorSpec
from console import SettingsError, printable

log = logging.getLogger(__name__)

_MOST_SHOWN = 3


class InitialModel:
    """A file that ``--init`` names. A SettingsError with one line about what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sha256(self) -> str:
        """The digest of the file as it is, as ``sha256sum`` gives it."""
        with self._in_reading(), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def state(self, tensors: ModelTensors, shared: Specs) -> State:
        """The shared tensors of the model, which the file has to have as the task's model has them.

        A tied tensor may be there under each of its names. What the model has but does not share is passed over, in
        one line of the log; what it does not have is an error, as is a value of a trained tensor that is not finite.
        """
        with self._in_reading(), safe_open(self.path, framework="pt") as file:
            given = set(file.keys())
            problems: list[str] = []
            state: dict[str, torch.Tensor] = {}
            for spec in shared:
                names = [name for name in _names_of(spec, tensors) if name in given]
                if problem := _put(state, spec, [file.get_tensor(name) for name in names], names):
                    problems.append(problem)
        problems += [
            f"has '{_short(name)}', which the model does not have" for name in sorted(given - {*tensors.names})
        ]
        if problems:
            raise SettingsError(f"--init {self.path} does not fit the task's model: {_some(problems)}")
        broken = first_not_finite({name: tensor for name, tensor in state.items() if name in tensors.trained})
        if broken:
            raise SettingsError(
                f"--init {self.path} has NaN or infinity in '{_short(broken)}', which is trained;"
                " take an earlier model of that run"
            )
        used = {name for spec in shared for name in _names_of(spec, tensors)}
        if unused := [f"'{_short(name)}'" for name in tensors.names if name in given - used]:
            log.warning("of --init %s, what is not shared is not used: %s", self.path, _some(unused))
        return state

    @contextmanager
    def _in_reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SettingsError(f"--init {self.path} cannot be read: {error.strerror or error}") from error
        except (SafetensorError, ValueError) as error:
            raise SettingsError(f"--init {self.path} is no whole safetensors file: {error}") from error


def _names_of(spec: TensorSpec, tensors: ModelTensors) -> list[str]:
    """The name that a tensor travels by, and its others if it is tied."""
    return [spec.name, *(other for other, name in tensors.others.items() if name == spec.name)]


def _put(
    state: dict[str, torch.Tensor], spec: TensorSpec, found: Sequence[torch.Tensor], names: Sequence[str]
) -> str | None:
    """Adds a tensor that was found under these names to the state; or returns what is wrong with it."""
    if not found:
        return f"has no '{_short(spec.name)}'"
    for name, tensor in zip(names, found, strict=True):
        if tensor.dtype != DTYPES[spec.dtype] or tuple(tensor.shape) != tuple(spec.shape):
            return f"has '{_short(name)}' as {_form(tensor)}, not {spec.dtype} {list(spec.shape)}"
    for name, tensor in zip(names[1:], found[1:], strict=True):
        if not torch.equal(_bytes(found[0]), _bytes(tensor)):
            pair = f"'{_short(names[0])}' than in '{_short(name)}'"
            return f"has other values in {pair}, which are one tensor (tied weights)"
    state[spec.name] = found[0]
    return None


def _form(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _MOST_SHOWN} more" if len(texts) > _MOST_SHOWN else ""
    return "; ".join(texts[:_MOST_SHOWN]) + more


def _short(name: str) -> str:
    return printable(name, at_most=61)
