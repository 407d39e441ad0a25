"""The ring: an update as integers, whose sums are exact in any order, and which can be masked.

An element x of a delta, of an update with this weight, becomes trunc(weight * x / step), towards zero: what is encoded
is never longer than what was given, so a norm that was clipped stays clipped (with rounding to the nearest it would
not, see Kairouz et al. 2021, "The Distributed Discrete Gaussian Mechanism", section 4). ``step`` is a power of two, so
multiplying and dividing by it is exact.

Sums are modulo 2^64 or 2^32, and read as signed integers: they are right as long as the sum itself is within half of
that, whatever the masked summands are. ``step_of`` gives a step for which it is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64] | NDArray[np.int32]

RING64_STEP = 2.0**-32
"""For integers of 64 bits: the sum's range is then 2^31, and an update adds less than 2^-32 of error to it."""
_BATCH = 2**14
"""Elements worked on at a time: they stay in the cache."""


@dataclass(frozen=True, slots=True)
class Ring:
    """How elements become integers of so many bits. A step or a range that cannot be is a ValueError."""

    bits: Literal[64, 32]
    step: float
    """What one unit stands for, of weight * element; a power of two."""
    most: float
    """The magnitude of weight * element up to which one is taken; more is cut off."""

    def __post_init__(self) -> None:
        if not (self.step > 0 and math.isfinite(self.step) and math.frexp(self.step)[0] == 0.5):
            raise ValueError(f"a step is a power of two, not {self.step!r}")
        if not 0 < self.most / self.step < 2.0 ** (self.bits - 1):
            raise ValueError(f"integers of {self.bits} bits in steps of {self.step!r} do not reach {self.most!r}")

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"<i{self.bits // 8}")

    def integers(
        self, values: Floats, *, weight: float, is_in_reach: bool = False, out: Integers | None = None
    ) -> Integers:
        """A flat array of finite elements as integers of the ring, in ``out`` if it is given. The same bits everywhere.

        ``is_in_reach``: it is known that nothing is to be cut off.
        """
        found: Integers = np.empty(len(values), self.dtype) if out is None else out
        for batch, scaled in _batches(len(values)):
            scaled[:] = values[batch]
            self._cut(scaled, found[batch], weight=weight, is_in_reach=is_in_reach)
        return found

    def split(self, values: Floats, *, weight: float, is_in_reach: bool = False, out: Integers, left: Floats) -> None:
        """The same, and ``left`` becomes what the integers lack of the elements, in the elements' own precision."""
        wide = np.empty(min(_BATCH, len(values)))
        for batch, scaled in _batches(len(values)):
            given = wide[: len(scaled)]
            given[:] = scaled[:] = values[batch]
            self._cut(scaled, out[batch], weight=weight, is_in_reach=is_in_reach)
            scaled[:] = out[batch]
            scaled *= self.step
            if weight != 1:
                scaled /= weight
            left[batch] = np.subtract(given, scaled, out=scaled)

    def _cut(self, elements: NDArray[np.float64], out: Integers, *, weight: float, is_in_reach: bool) -> None:
        """Makes ``out`` the integers of a batch; ``elements`` are used up."""
        elements *= weight / self.step
        if not is_in_reach:
            largest = float(math.floor(self.most / self.step))
            np.clip(elements, -largest, largest, out=elements)
        out[:] = elements  # conversion cuts towards zero

    def values(self, integers: Integers, *, weight: float) -> NDArray[np.float64]:
        """What such integers stand for: of an update its elements, of a sum of updates their weighted mean."""
        return np.multiply(integers, self.step, dtype=np.float64) / weight

    def reaches(self, largest: float, *, weight: float) -> bool:
        """Whether nothing is cut off of elements of at most this magnitude."""
        return largest * weight <= self.most


def step_of(bits: Literal[64, 32], most: float) -> float:
    """The smallest step, a power of two, in which sums of magnitude up to ``most`` have room; for 64 bits a fixed one.

    ``most`` is the number of updates times ``Ring.most``, and what noise there may be.
    """
    if bits == 64:
        return RING64_STEP
    return 2.0 ** (math.frexp(most)[1] - (bits - 1))


def _batches(num: int) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """(which elements, memory for as many numbers), over all of them."""
    scratch = np.empty(min(_BATCH, num))
    for start in range(0, num, _BATCH):
        yield slice(start, start + _BATCH), scratch[: num - start]
