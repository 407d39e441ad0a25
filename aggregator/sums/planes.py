"""The exact sum of many numbers, element by element: nothing is rounded until the sum is read.

A float64 is an integer of 53 bits times a power of two. Its bits are added where they belong, to planes of 32 bits,
each an int64 for every element (Neal 2015, "Fast exact summation using small and large superaccumulators"):

    sum = plane[k] * 2**(32 k - 1152), summed over k

So integers are added, in any order, subtracted again, and in any range that float64 has. Numbers of similar magnitude
use four planes or so; a plane is made when the first number needs it. 2**30 additions fit without a carry.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BITS, _MASK = 32, 2**32 - 1
_UNIT = 1152
"""The bit of plane 0 that stands for 1; a multiple of ``_BITS`` beyond the smallest float64."""
_FRACTION = 53

Integers = NDArray[np.int64]


class Planes:
    """The sum of arrays of ``num`` elements each."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._planes: dict[int, Integers] = {}

    def add(self, values: NDArray[Any], *, sign: int = 1) -> None:
        """Adds finite floats, or integers above -2**63; with ``sign`` -1 takes them out again."""
        if np.issubdtype(values.dtype, np.floating):
            fractions, exponents = np.frexp(values.astype(np.float64))
            whole = np.ldexp(fractions, _FRACTION).astype(np.int64)
            self._add(whole, exponents.astype(np.int64) + (_UNIT - _FRACTION), sign)
        else:
            self._add(values.astype(np.int64), np.full(len(values), _UNIT, np.int64), sign)

    def _add(self, whole: Integers, places: Integers, sign: int) -> None:
        """``whole`` times two to the power of ``places``, counted from the lowest bit of plane 0."""
        signs, size = np.sign(whole) * sign, np.abs(whole)
        planes, shifts = places // _BITS, places % _BITS
        low = (size & _MASK) << shifts
        high = ((size >> _BITS) << shifts) + (low >> _BITS)
        parts = (low & _MASK, high & _MASK, high >> _BITS)
        for first in np.unique(planes[size != 0]):
            is_here = (planes == first) & (size != 0)
            for offset, part in enumerate(parts):
                if part[is_here].any():
                    self._plane(int(first) + offset)[is_here] += (signs * part)[is_here]

    def _plane(self, number: int) -> Integers:
        if number not in self._planes:
            self._planes[number] = np.zeros(self._num, np.int64)
        return self._planes[number]

    def floats(self) -> NDArray[np.float64]:
        """The sums, each rounded once, half to even. OverflowError if one is beyond float64."""
        lowest = min(self._planes, default=0)
        power = _BITS * lowest - _UNIT
        factor, divisor = (2**power, 1) if power >= 0 else (1, 2**-power)
        return np.array([float(total * factor) if divisor == 1 else total / divisor for total in self._totals(lowest)])

    def integers(self) -> Integers:
        """The sums of integers. OverflowError if one is beyond int64."""
        unit = _UNIT // _BITS
        return np.array(self._totals(unit), np.int64)

    def _totals(self, lowest: int) -> list[int]:
        """The sums in units of the lowest bit of this plane, below which there is none."""
        totals = [0] * self._num
        for number, plane in self._planes.items():
            for index in np.flatnonzero(plane):
                totals[index] += int(plane[index]) << (_BITS * (number - lowest))
        return totals

    def arrays(self) -> dict[str, Integers]:
        """All that ``of`` needs, by name."""
        return {str(number): plane for number, plane in self._planes.items()}

    @classmethod
    def of(cls, num: int, arrays: Mapping[str, Integers]) -> "Planes":
        """The inverse of ``arrays``."""
        planes = cls(num)
        planes._planes = {int(number): plane for number, plane in arrays.items()}
        return planes
