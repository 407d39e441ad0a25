"""The inner loop of the exact fold, compiled. It does what `aggregator/rounds/exact_sum.py` does in numpy, to the bit.

numpy goes over a block ten times, each time with one operation; compiled, a parameter is read, split and added in one
go, and memory is what is waited for. That takes numba, which is large, on the disk and in memory (120 MB): it is an
extra, `pip install 'fedmq[fast]'`, and used with `--compiled-fold`.
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
    """Adds ``values`` times a scale to (high, low): the scale, what rounds to ``high``, steps of ``low`` in one."""
    largest_bits: Callable[[NDArray[np.uint32]], int]
    """The bits of the largest magnitude; those of infinity and NaN are larger than any number's."""

    def largest(self, values: NDArray[np.float32]) -> float:
        """The largest magnitude; infinity or NaN if there is one."""
        return float(np.uint32(self.largest_bits(values.view(np.uint32))).view(np.float32))


@functools.cache
def kernel() -> Kernel:
    """Compiled at its first use, in a second or less; a SettingsError where numba is not installed."""
    try:
        import numba
    except ImportError as error:
        raise SettingsError("--compiled-fold needs numba: pip install 'fedmq[fast]'") from error
    # without fastmath: no operation may be left out or joined
    try:
        compiled = numba.njit(nogil=True, cache=True)
        return Kernel(add=compiled(_add), largest_bits=compiled(_largest_bits))
    except RuntimeError:  # there is no folder that it could keep the code in
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
