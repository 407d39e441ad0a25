"""The difference between two states that may hold infinity or NaN, as a causal mask or an observer of extremes does."""

from collections.abc import Mapping

import torch

from broker.states.batches import Batched, batches_of
from broker.states.rooms import memory_of
from broker.states.tensors import is_finite
from broker.wire import Specs, kept


def delta_of(new: Mapping[str, torch.Tensor], old: Mapping[str, torch.Tensor], specs: Specs) -> Batched:
    """``new`` minus ``old``: floating-point tensors in their dtype, integer ones as int64.

    An element that is not finite and has not changed has not moved: its difference is 0. It is reckoned where ``old``
    is, and then on the CPU.
    """
    specs = kept(specs)
    pairs = zip(batches_of(new, specs), batches_of(old, specs), strict=True)
    return Batched(specs, [_difference(one.detach(), other).to("cpu") for (_, one), (_, other) in pairs])


def _difference(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    new = new.to(old.device)
    if not new.is_floating_point():
        return new.to(torch.int64) - old.to(torch.int64)
    delta = _subtracted(new, old)
    if is_finite(delta):
        return delta
    has_not_moved = ~torch.isfinite(old) & ((new == old) | (new.isnan() & old.isnan()))
    return torch.where(has_not_moved, torch.zeros_like(delta), delta)


def _subtracted(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    if not (new.is_cpu and new.dtype == old.dtype and new.is_contiguous() and new.numel()):
        return new - old
    delta = torch.frombuffer(memory_of(new.nbytes), dtype=new.dtype).view(new.shape)
    return torch.sub(new, old, out=delta)


def has_diverged(new: torch.Tensor, old: torch.Tensor) -> bool:
    """Whether an element that was finite is not any more."""
    return not is_finite(new) and bool((torch.isfinite(old) & ~torch.isfinite(new)).any())
