"""The inner loop of the exact fold, compiled: bit for bit what `aggregator/rounds/exact_sum.py` does in numpy.

numpy passes over a block ten times, with one operation each; compiled, a parameter is read, split and added in one
pass, and memory is the bottleneck. `exact_fold.c` is compiled when fedmq is installed, where there is a C compiler, and
is then what every sum uses. Elsewhere numba compiles the same loop: it is large on disk and in memory (120 MB), and so
an extra, `pip install 'fedmq[fast]'`, used with `--compiled-fold`.
"""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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


def kernel_for(*, must_be_compiled: bool) -> Kernel | None:
    """The kernel for sums: the one that was built with fedmq; without it, numba's if it must be one, or None."""
    return built() or (kernel() if must_be_compiled else None)


@functools.cache
def built() -> Kernel | None:
    """The kernel that was compiled when fedmq was installed; None if there was no C compiler."""
    for path in sorted(Path(__file__).parent.glob("exact_fold.*so")):
        found = from_library(path)
        if found is not None:
            return found
    return None


def from_library(path: Path) -> Kernel | None:
    """The kernel in a shared library made of exact_fold.c; None if it is not one for this machine."""
    try:
        library = ctypes.CDLL(str(path))
        add, largest_bits = library.fedmq_fold_add, library.fedmq_fold_largest
    except (OSError, AttributeError):
        return None
    pointer, number, double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    add.argtypes, add.restype = [pointer, pointer, pointer, number, double, double, double], None
    largest_bits.argtypes, largest_bits.restype = [pointer, number], ctypes.c_uint32

    def add_values(
        high: NDArray[np.int64],
        low: NDArray[np.int32],
        values: NDArray[np.float32],
        scale: float,
        to_integer: float,
        low_steps: float,
    ) -> None:
        num = len(values)
        if not num <= len(high) == len(low):
            raise ValueError(f"{num} values for sums of {len(high)} and {len(low)}")
        add(high.ctypes.data, low.ctypes.data, values.ctypes.data, num, scale, to_integer, low_steps)

    return Kernel(add=add_values, largest_bits=lambda bits: int(largest_bits(bits.ctypes.data, len(bits))))


@functools.cache
def kernel() -> Kernel:
    """The kernel that numba compiles; its first use takes up to a second. A SettingsError if numba is not installed."""
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
