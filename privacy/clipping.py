"""Clipping an update to a length, over all its tensors together, so that what is sent is never longer than that.

The norm is summed in float64 in a fixed order, without BLAS, and used a little too large; ``Ring.integers`` then cuts
towards zero, which makes nothing longer. So the integers' own norm, times the step, is at most the clip, exactly.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_ABOVE_ALL_ROUNDING = 1 + 2.0**-40
"""NumPy adds pairwise, in blocks of 128: for any length that fits a machine the error is below 2^-45 of the sum."""
_BATCH = 2**16
"""Elements squared at a time: they stay in the cache."""


def norm_of(tensors: Iterable[Floats]) -> float:
    """The L2 norm of all elements of all tensors, in float64. 0 for none; a ValueError for one that is not finite.

    It is never below the true norm, and above it by at most 2^-39 of it. The bits depend on no order of the tensors.
    """
    flat = [np.ascontiguousarray(tensor).reshape(-1) for tensor in tensors]
    largest = max((largest_of(tensor) for tensor in flat), default=0.0)
    if largest == 0:
        return 0.0
    exponent = math.frexp(largest)[1]  # divided by a power of two first: no square leaves float64's range
    squares = math.fsum(_sum_of_squares(tensor, exponent) for tensor in flat)
    return math.ldexp(math.sqrt(squares) * _ABOVE_ALL_ROUNDING, exponent)


def largest_of(tensor: Floats) -> float:
    """The largest magnitude of a flat array; 0 if it has none. A ValueError if one is not finite."""
    largest = float(max(tensor.max(), -tensor.min())) if len(tensor) else 0.0
    if not math.isfinite(largest):
        raise ValueError("there are elements that are not finite, and no length to clip to")
    return largest


def scale_to(clip: float, norm: float) -> float:
    """What to multiply every element by, at most 1, so that the norm is at most ``clip``: the weight in the ring."""
    if not 0 < clip < math.inf:
        raise ValueError(f"the clip must be above 0, not {clip:g}")
    return 1.0 if norm <= clip else clip / norm


def _sum_of_squares(tensor: Floats, exponent: int) -> float:
    """Of elements times 2^-exponent."""
    sums = []
    for start in range(0, len(tensor), _BATCH):
        scaled = np.ldexp(tensor[start : start + _BATCH].astype(np.float64), -exponent)
        sums.append(float(np.sum(np.multiply(scaled, scaled, out=scaled))))
    return math.fsum(sums)
