"""Small tensors taken many at a time: a call into PyTorch costs as much as some thousand elements.

A batch is a run of neighbours of one dtype, as long as they are small together; a larger tensor is a batch alone.
Values go into all tensors of a module at once, where its own `load_state_dict()` would do nothing else. One that
overrides what PyTorch does with a state dict, in any part of it, or has hooks for it, is left to itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from broker.wire import Specs, TensorSpec

_MOST_BYTES = 2**18
"""Of a batch of several: what is copied to bring them together stays in the processor's cache."""

_METHODS = ("state_dict", "_save_to_state_dict", "load_state_dict", "_load_from_state_dict")


def batches_of(specs: Specs) -> Iterator[Specs]:
    """The specs, in their order, in batches."""
    batch: list[TensorSpec] = []
    room, dtype = 0, ""
    for spec in specs:
        num_bytes = spec.num_bytes
        if batch and (num_bytes > room or spec.dtype != dtype):
            yield tuple(batch)
            batch = []
        if not batch:
            room, dtype = _MOST_BYTES, spec.dtype
        batch.append(spec)
        room -= num_bytes
    if batch:
        yield tuple(batch)


def alike(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensors, in their order, in batches of one dtype that are on one device."""
    batch: list[torch.Tensor] = []
    room = 0
    for tensor in tensors:
        num_bytes = tensor.nbytes
        if batch and (num_bytes > room or tensor.dtype != batch[0].dtype or tensor.device != batch[0].device):
            yield batch
            batch = []
        if not batch:
            room = _MOST_BYTES
        batch.append(tensor)
        room -= num_bytes
    if batch:
        yield batch


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The elements of tensors of one dtype on one device, flat and one after the other, without their gradients."""
    with torch.no_grad():
        return torch._C._nn.flatten_dense_tensors(list(tensors))


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
