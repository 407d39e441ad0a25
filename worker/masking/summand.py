"""A delta as what it adds to the sum: integers of the ring, and what they leave out. Pure.

With integers of 64 bits nothing worth keeping is left out, and a delta that is beyond their range is no update. With 32
bits, what was cut towards zero or beyond the most is added to the next delta, as with any lossy compression:

    total    = delta + residual
    residual = total - integers * step / weight

Where the run adds noise, the weight is what brings the total's norm to the clip, at most 1, and what is carried is what
the integers lack of the clipped total. What clipping takes away is gone: carried, it would grow from round to round.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from broker.states import MaskedEncoding, State
from broker.wire import EXTRAS
from console import FedmqError
from privacy import Ring

Floats = NDArray[np.floating[Any]]


class CannotBeSummed(FedmqError):
    """A delta that has no integers in the run's ring. The message says where."""


@dataclass(frozen=True, slots=True)
class Summand:
    """What one update adds to the sum, before it is masked."""

    integers: State
    """The tensors of ``MaskedEncoding.encoded``."""
    residual: State
    """What is left of each tensor for the next round, with integers of 32 bits."""


def totals_of(
    delta: Mapping[str, torch.Tensor], residual: Mapping[str, torch.Tensor], encoding: MaskedEncoding
) -> dict[str, Floats]:
    """The delta with what the last integers left out; flat arrays. CannotBeSummed if one is not finite."""
    totals = {}
    for spec in encoding.specs:
        values = elements_of(delta[spec.name])
        if encoding.masking.bits == 32 and spec.name in residual:
            values = values + elements_of(residual[spec.name])
        if not np.isfinite(values).all():
            raise CannotBeSummed(f"the delta of '{spec.name}' is not finite")
        totals[spec.name] = values
    return totals


def summand_of(
    totals: Mapping[str, Floats],
    extras: NDArray[np.int64],
    encoding: MaskedEncoding,
    *,
    weight: float,
    carried: float = 1.0,
) -> Summand:
    """The same arguments give the same bits; ``carried`` times what the integers leave out is the residual.

    CannotBeSummed for what is out of range.
    """
    masking = encoding.masking
    ring = Ring(masking.bits, masking.step, masking.most)
    integers = {EXTRAS: torch.from_numpy(extras)}
    residual: dict[str, torch.Tensor] = {}
    for spec in encoding.specs:
        values = totals[spec.name]
        is_in_reach = ring.reaches(values, weight=weight)
        if masking.bits == 64 and not is_in_reach:
            raise CannotBeSummed(
                f"the delta of '{spec.name}', times its weight, leaves the range of this run's integers"
                f" ({masking.most:g}); a smaller --lr may help"
            )
        own = ring.integers(values, weight=weight, is_in_reach=is_in_reach)
        integers[spec.name] = torch.from_numpy(own).reshape(spec.shape)
        if masking.bits == 32:
            left = ring.left(values, own, weight=weight)
            left *= carried
            residual[spec.name] = torch.from_numpy(left).reshape(spec.shape)
    return Summand(integers, residual)


def elements_of(tensor: torch.Tensor) -> Floats:
    """A flat array: float32 as it is, half precision as float32, all else as float64."""
    is_short = tensor.is_floating_point() and tensor.dtype != torch.float64
    wide = tensor.detach().to("cpu", torch.float32 if is_short else torch.float64)
    flat: Floats = wide.contiguous().reshape(-1).numpy()
    return flat
