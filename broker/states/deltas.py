"""The difference between two states that may hold infinity or NaN, as a causal mask or an observer of extremes does."""

from collections.abc import Mapping, Sequence

import torch

from broker.states.batches import batches_of, joined
from broker.states.tensors import State, is_finite
from broker.wire import Specs

_AT_ONCE = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)


def delta_of(new: Mapping[str, torch.Tensor], old: Mapping[str, torch.Tensor], specs: Specs) -> State:
    """``new`` minus ``old``: floating-point tensors in their dtype, integer ones as int64.

    An element that is not finite and has not changed has not moved: its difference is 0. It is reckoned where ``old``
    is, and then on the CPU.
    """
    delta: State = {}
    for batch in batches_of(specs):
        names = [spec.name for spec in batch]
        delta |= zip(names, _differences([new[name] for name in names], [old[name] for name in names]), strict=True)
    return delta


def _differences(new: Sequence[torch.Tensor], old: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Of a batch: at once, if they are small, and finite, as nearly always."""
    is_small = len(new) > 1 and all(one.is_cpu and other.is_cpu for one, other in zip(new, old, strict=True))
    if is_small and all(one.dtype == other.dtype in _AT_ONCE for one, other in zip(new, old, strict=True)):
        with torch.no_grad():
            delta = torch._foreach_sub(list(new), list(old))
        if is_finite(joined(delta)):
            return delta
    return [_difference(one.detach(), other).to("cpu") for one, other in zip(new, old, strict=True)]


def _difference(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    new = new.to(old.device)
    if not new.is_floating_point():
        return new.to(torch.int64) - old.to(torch.int64)
    delta = new - old
    if is_finite(delta):
        return delta
    has_not_moved = ~torch.isfinite(old) & ((new == old) | (new.isnan() & old.isnan()))
    return torch.where(has_not_moved, torch.zeros_like(delta), delta)


def has_diverged(new: torch.Tensor, old: torch.Tensor) -> bool:
    """Whether an element that was finite is not any more."""
    return not is_finite(new) and bool((torch.isfinite(old) & ~torch.isfinite(new)).any())
