"""Numbers on the grid of the exact sum, where both ends can reckon without rounding:

    value = high * 2**-32 + low * 2**-58        (broker/wire/limbs.py)

What a worker keeps of its own updates, and what the aggregator keeps of their sum, then agree to the last bit: each
product is rounded once, in the same way at both ends, and from then on only integers are added.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from broker.wire import HIGH_STEP, LOW_BITS, LOW_STEP, MAX_LOW, MAX_SUM

Floats = NDArray[np.float64]
_MOST_HIGH = MAX_SUM / HIGH_STEP


class OnGrid(NamedTuple):
    """Numbers as pairs of integers. ``low`` may be larger than a sum's own limbs have it, up to 2**62."""

    high: NDArray[np.int64]
    low: NDArray[np.int64]

    @classmethod
    def rounded(cls, values: NDArray[np.floating], weight: float = 1.0) -> "OnGrid":
        """``weight * values``, as the exact sum rounds it when it adds it: half to even.

        What is 2**30 or more, or not a number, is in no sum; here it becomes 2**30 or 0.
        """
        scaled = np.nan_to_num(np.multiply(values, weight / HIGH_STEP, dtype=np.float64), posinf=np.inf, neginf=-np.inf)
        scaled = np.clip(scaled, -_MOST_HIGH, _MOST_HIGH)
        whole = np.rint(scaled)
        low = np.rint((scaled - whole) * 2.0**LOW_BITS)
        return cls(whole.astype(np.int64), low.astype(np.int64))

    @classmethod
    def of(cls, nearest: Floats, rest: Floats) -> "OnGrid":
        """From what ``floats`` gave."""
        whole = np.rint(nearest / HIGH_STEP)
        below = (nearest - whole * HIGH_STEP) + rest  # both are on the grid, and small: nothing is rounded
        return cls(whole.astype(np.int64), (below / LOW_STEP).astype(np.int64))

    def floats(self) -> tuple[Floats, Floats]:
        """(nearest float64, what it lacks). OverflowError where a number is 2**30 or more."""
        carried = (self.low + MAX_LOW) >> LOW_BITS
        high, low = self.high + carried, self.low - (carried << LOW_BITS)
        if len(high) and max(int(high.max()), -int(high.min())) >= _MOST_HIGH:
            raise OverflowError(f"a sum reaches {MAX_SUM:.3g}")
        whole = high.astype(np.float64)
        lacks = ((high - whole.astype(np.int64)) << LOW_BITS) + low
        large, small = whole * HIGH_STEP, lacks * LOW_STEP
        nearest = large + small
        return nearest, small - (nearest - large)

    def plus(self, other: "OnGrid", times: int = 1) -> "OnGrid":
        """With ``times`` the other. OverflowError where that is 2**30 or more."""
        if len(other.high) and abs(times) * max(int(other.high.max()), -int(other.high.min())) >= _MOST_HIGH:
            raise OverflowError(f"a number times {times} reaches {MAX_SUM:.3g}")
        return OnGrid(self.high + times * other.high, self.low + times * other.low)


def to_grid(values: Floats) -> Floats:
    """The nearest numbers on the grid, in float64; those of 2**-6 or more are on it."""
    return np.rint(values / LOW_STEP) * LOW_STEP
