"""Values copied into all tensors of a module at once, where its own `load_state_dict()` would do nothing else.

A module, or a part of one, that overrides what PyTorch does with a state dict, or has hooks for it, is left to itself.
"""

from collections.abc import Mapping

import torch
from torch import nn

_METHODS = ("state_dict", "_save_to_state_dict", "load_state_dict", "_load_from_state_dict")


def put_at_once(model: nn.Module, entries: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> bool:
    """Copies ``values`` into those of a module's ``entries``, which are its memory; False: it has to do that itself."""
    if not all(map(_is_plain, model.modules())):
        return False
    into = [entries.get(name) for name in values]
    known = [tensor for tensor in into if type(tensor) is torch.Tensor]
    if len(known) != len(into) or any(
        tensor.shape != value.shape for tensor, value in zip(known, values.values(), strict=True)
    ):
        return False
    if known:
        with torch.no_grad():
            torch._foreach_copy_(known, list(values.values()))
    return True


def _is_plain(module: nn.Module) -> bool:
    has_hooks = (
        module._state_dict_hooks
        or module._state_dict_pre_hooks
        or module._load_state_dict_pre_hooks
        or module._load_state_dict_post_hooks
    )
    return not has_hooks and _is_of_torch(type(module)) and not any(name in module.__dict__ for name in _METHODS)


def _is_of_torch(kind: type[nn.Module]) -> bool:
    return all(getattr(kind, name).__module__.startswith("torch.nn.") for name in _METHODS)
