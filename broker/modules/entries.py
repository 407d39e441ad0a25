"""The entries of a module's state dict, read and written all at once.

Where a module and all its parts leave their state dicts to PyTorch, an entry is the parameter or buffer itself. One
that overrides what PyTorch does, in any of its parts, or has hooks for it, is asked for its state dict, or given one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from console import TaskError

_READ = ("state_dict", "_save_to_state_dict", "get_extra_state")
_WRITTEN = ("load_state_dict", "_load_from_state_dict", "set_extra_state")
_ANY = frozenset((*_READ, *_WRITTEN))
_read_of = attrgetter(*_READ)
_written_of = attrgetter(*_WRITTEN)
_hooks_of = attrgetter(
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


@dataclass(frozen=True, slots=True)
class Entries:
    """All of a module's, as they are now."""

    by_name: Mapping[str, Any]
    """The state dict; its tensors may be parameters."""
    are_memory: bool
    """Whether PyTorch alone reads and writes them: then they are the module's memory."""

    @classmethod
    def of(cls, model: nn.Module) -> "Entries":
        """TaskError if the module gives no state dict."""
        parts = list(_parts(model))
        if not _are_plain([part for _, part in parts]):
            return cls(state_dict_of(model), False)
        own = {
            f"{prefix}{name}": tensor
            for prefix, part in parts
            for name, tensor in chain(part._parameters.items(), _kept_buffers(part))
            if tensor is not None
        }
        return cls(own, True)

    def put(self, values: Mapping[str, torch.Tensor]) -> bool:
        """Copies ``values`` into those of these names, which are of their shapes.

        False, and nothing is done: the module has to do that itself.
        """
        into: list[Any] = list(map(self.by_name.get, values))
        if not self.are_memory or not set(map(type, into)) <= {torch.Tensor, nn.Parameter}:
            return False
        if into:
            with torch.no_grad():
                torch._foreach_copy_(into, list(values.values()))
        return True


def state_dict_of(model: nn.Module) -> dict[str, Any]:
    """What the module itself gives, with its notes on versions. TaskError if that is no state dict."""
    try:
        entries: Any = model.state_dict()
    except Exception as error:  # an overridden method may raise anything
        raise TaskError(f"the model's state_dict() failed: {one_line(error)}") from error
    if not isinstance(entries, dict) or not all(isinstance(name, str) and name for name in entries):
        raise TaskError(f"the model's state_dict() gave {type(entries).__name__}; expected a dict of names to tensors")
    return entries


def one_line(error: Exception) -> str:
    """An error of the task's model, for a line of ours."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(prefix, part) in the order of the state dict; a part that is there twice comes twice."""
    yield prefix, module
    for name, part in module._modules.items():
        if part is not None:
            yield from _parts(part, f"{prefix}{name}.")


def _kept_buffers(module: nn.Module) -> Iterable[tuple[str, torch.Tensor | None]]:
    """The buffers that belong to the state dict."""
    left_out = module._non_persistent_buffers_set
    if not left_out:
        return module._buffers.items()
    return ((name, buffer) for name, buffer in module._buffers.items() if name not in left_out)


def _are_plain(modules: Sequence[nn.Module]) -> bool:
    """Whether PyTorch alone reads and writes their entries, which are then their memory."""
    if not all(map(_is_of_torch, set(map(type, modules)))):
        return False
    return not any(any(_hooks_of(module)) or not _ANY.isdisjoint(module.__dict__) for module in modules)


def _is_of_torch(kind: type[nn.Module]) -> bool:
    return _read_of(kind) == _read_of(nn.Module) and all(
        method.__module__.startswith("torch.nn.") for method in _written_of(kind)
    )
