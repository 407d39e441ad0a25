"""The inner loop of the exact fold, compiled: bit for bit what `aggregator/rounds/exact_sum.py` does in numpy.

numpy passes over a block ten times, with one operation each; compiled, a parameter is read, split and added in one
pass, and memory is the bottleneck. This needs numba, which is large on disk and in memory (120 MB); so it is an extra,
`pip install 'fedmq[fast]'`, used with `--compiled-fold`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from console import SettingsError


@dataclass(frozen=True, slots=True)
class Kernel:
    """Both loops over an update, for float32."""

    add: Callable[[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], float, float, float], None]
    """Adds ``values`` times a scale to (high, low). Floats: scale, rounding constant, steps of low in one of high."""
    largest_bits: Callable[[NDArray[np.uint32]], int]
    """The bits of the largest magnitude; those of infinity and NaN compare larger than any number's."""

    def largest(self, values: NDArray[np.float32]) -> float:
        """The largest magnitude; infinity or NaN if there is one."""
        return float(np.uint32(self.largest_bits(values.view(np.uint32))).view(np.float32))


@functools.cache
def kernel() -> Kernel:
    """The compiled kernel; its first use takes up to a second. A SettingsError if numba is not installed."""
    try:
        import numba
    except ImportError as error:
        raise SettingsError("--compiled-fold needs numba: pip install 'fedmq[fast]'") from error
    # without fastmath: no operation may be left out or fused
    try:
        compiled = numba.njit(nogil=True, cache=True)
        return Kernel(add=compiled(_add), largest_bits=compiled(_largest_bits))
    except RuntimeError:  # there is no folder to cache the code in
        compiled = numba.njit(nogil=True)
        return Kernel(add=compiled(_add), largest_bits=compiled(_largest_bits))


def _add(high: Any, low: Any, values: Any, scale: float, to_integer: float, low_steps: float) -> None:
    for i in range(values.size):
        x = np.float64(values[i]) * scale
        r = (x + to_integer) - to_integer
        high[i] += np.int64(r)
        rest = (x - r) * low_steps
        low[i] += np.int32((rest + to_integer) - to_integer)


def _largest_bits(bits: Any) -> Any:
    largest = np.uint32(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & np.uint32(0x7FFFFFFF))
    return largest
