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

from broker.states import MaskedEncoding, State, memory_of
from broker.wire import EXTRAS
from console import FedmqError
from privacy import Ring, largest_of

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


@dataclass(frozen=True, slots=True)
class Total:
    """A tensor of the delta with what the last integers left out, flat."""

    values: Floats
    largest: float
    """The largest magnitude."""


def totals_of(
    delta: Mapping[str, torch.Tensor], residual: Mapping[str, torch.Tensor], encoding: MaskedEncoding
) -> dict[str, Total]:
    """The delta with what the last integers left out. CannotBeSummed if it is not finite."""
    totals = {}
    for spec in encoding.specs:
        values = elements_of(delta[spec.name])
        if encoding.masking.bits == 32 and spec.name in residual:
            values = np.add(values, elements_of(residual[spec.name]), out=_room_for(len(values), values.dtype))
        try:
            totals[spec.name] = Total(values, largest_of(values))
        except ValueError as error:
            raise CannotBeSummed(f"the delta of '{spec.name}' is not finite") from error
    return totals


def summand_of(
    totals: Mapping[str, Total],
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
        values = totals[spec.name].values
        is_in_reach = ring.reaches(totals[spec.name].largest, weight=weight)
        if masking.bits == 64 and not is_in_reach:
            raise CannotBeSummed(
                f"the delta of '{spec.name}', times its weight, leaves the range of this run's integers"
                f" ({masking.most:g}); a smaller --lr may help"
            )
        own = _room_for(len(values), ring.dtype)
        if masking.bits == 64:
            ring.integers(values, weight=weight, is_in_reach=is_in_reach, out=own)
        else:
            left = _room_for(len(values), values.dtype)
            ring.split(values, weight=weight, is_in_reach=is_in_reach, out=own, left=left)
            if carried != 1:
                left *= carried
            residual[spec.name] = torch.from_numpy(left).reshape(spec.shape)
        integers[spec.name] = torch.from_numpy(own).reshape(spec.shape)
    return Summand(integers, residual)


def elements_of(tensor: torch.Tensor) -> Floats:
    """A flat array: float32 as it is, half precision as float32, all else as float64."""
    is_short = tensor.is_floating_point() and tensor.dtype != torch.float64
    wide = tensor.detach().to("cpu", torch.float32 if is_short else torch.float64)
    flat: Floats = wide.contiguous().reshape(-1).numpy()
    return flat


def _room_for(num: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory for so many elements, which may have been used before."""
    return np.frombuffer(memory_of(num * dtype.itemsize), dtype)
