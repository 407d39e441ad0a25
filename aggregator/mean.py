"""The exact weighted sum of updates: the same bits in any order, with any split into partial sums.

Floats do not add associatively, integers do. Each product ``weight * delta`` (exact in float64 for float32 deltas)
is rounded once onto a fixed grid of 2**-58 and held as two integers:

    value = high * 2**-32 + low * 2**-58        high: int64, low: int32, |low| <= 2**25 after a carry

So a parameter takes 12 bytes. What is lost is at most 2**-59 (2e-18) an update, far below the rounding of the
float32 result for any delta a training step makes; the sum of |weight * delta| may reach 2**30 (1e9). Two int64
limbs would give a range no model needs, for a third more memory; one limb cannot hold both ends of this one.

Rounding to the grid adds a float so large (1.5 * 2**52 grid steps) that its unit in the last place is the grid
step; the low bits of the sum are then the integer. That is one vector addition where rint and a cast are slow.
"""

import math
import mmap
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from broker.errors import UnfitMessage
from broker.tensors import Buffer, Specs, TensorSpec

Floats = NDArray[np.float64]
Integer = TypeVar("Integer", bound=np.integer[Any])

_HIGH_STEP = 2.0**-32
_LOW_BITS = 26
_LOW_STEP = _HIGH_STEP * 2.0**-_LOW_BITS
_HALF_CARRY = 2 ** (_LOW_BITS - 1)
_FOLDS_BEFORE_CARRY = 32

_TO_HIGH = 1.5 * 2.0**52
_TO_LOW = _TO_HIGH * 2.0**-_LOW_BITS
_TO_HIGH_BITS = np.float64(_TO_HIGH).view(np.int64)
_SMALL = 2.0**18
"""Products below it can be rounded by addition; larger ones are rounded and cast, with the same result."""

_ROUNDING = 1 + 2.0**-40
"""A bound is a sum of floats; this is more than what their rounding can have taken from it."""

MAX_SUM = 2.0**30
"""What the sum of |weight * delta| must stay below, for each parameter."""

_BLOCK = 2**14
"""Elements worked on at a time: two float64 blocks stay in the cache."""
_OWN_MEMORY_BYTES = 2**20


class ExactSum:
    """The running sum of ``weight * delta`` over updates, tensor by tensor.

    ``specs`` are those of the updates, in canonical order. Takes 12 bytes a parameter, whatever is added.
    """

    def __init__(self, specs: Specs) -> None:
        self.specs = specs
        self._high = {spec.name: _zeros(spec.num_elements, np.int64) for spec in specs}
        self._low = {spec.name: _zeros(spec.num_elements, np.int32) for spec in specs}
        self._starts = np.cumsum([0] + [spec.num_bytes for spec in specs]).tolist()
        self._bound = 0.0
        self._bound_of_update = 0.0
        self._num_uncarried = 0

    def add(self, offset: int, piece: Buffer, weight: float) -> None:
        """Adds ``weight`` times a piece of an update's payload that begins at byte ``offset``.

        A piece begins at a multiple of 8 bytes and ends at one, or at the end of the payload. One that holds NaN or
        infinity, or leaves the range, is an UnfitMessage; then nothing of this piece was added.
        """
        slices = list(self._slices(offset, piece))
        bound = max((_largest(values, spec) for spec, _, values in slices), default=0.0) * abs(weight)
        if not self._bound + bound < MAX_SUM:
            raise UnfitMessage(
                f"num_samples times delta reaches {bound:.3g}; the sum over a round must stay below {MAX_SUM:.3g}"
            )
        self._bound_of_update = max(self._bound_of_update, bound)
        add = _add_small if bound < _SMALL else _add_any
        for spec, start, values in slices:
            stop = start + len(values)
            add(self._high[spec.name][start:stop], self._low[spec.name][start:stop], values, weight)

    def end_update(self) -> None:
        """Says that all pieces of one update were added."""
        self._bound += self._bound_of_update
        self._bound_of_update = 0.0
        self._num_uncarried += 1
        if self._num_uncarried == _FOLDS_BEFORE_CARRY:
            self.carry()

    def add_sum(self, other: "ExactSum") -> None:
        """Adds what another sum over the same specs holds."""
        if not self._bound + other._bound < MAX_SUM:
            raise UnfitMessage(f"the sum of the partial sums may reach {MAX_SUM:.3g}")
        other.carry()
        for spec in self.specs:
            self._high[spec.name] += other._high[spec.name]
            self._low[spec.name] += other._low[spec.name]
        self._bound += other._bound
        self._num_uncarried += 1
        self.carry()

    def add_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        """Adds a piece, as ``limb_pieces`` gives them, of another sum over the same specs, whose bound is ``bound``.

        A piece begins at a multiple of 8 bytes and ends at one, or at the end; ``end_update`` says that all are in.
        One that leaves the range is an UnfitMessage; then nothing of this piece was added.
        """
        if not self._bound + bound < MAX_SUM:
            raise UnfitMessage(f"the sum of the partial sums may reach {MAX_SUM:.3g}")
        most = {8: int(bound / _HIGH_STEP * _ROUNDING) + 1, 4: _HALF_CARRY}
        slices = list(self._limb_slices(offset, piece))
        for own, values in slices:
            largest = max(int(values.max()), -int(values.min()))
            if largest > most[own.itemsize]:
                raise UnfitMessage(
                    f"a limb of the partial sum is {largest}; its bound {bound:.3g} leaves at most {most}"
                )
        self._bound_of_update = bound
        for own, values in slices:
            own += values

    def limb_pieces(self) -> Iterator[memoryview]:
        """The sum as bytes: the high limbs of each tensor in the order of the specs, then the low ones; not copied."""
        self.carry()
        for limbs in (self._high, self._low):
            for spec in self.specs:
                if spec.num_elements:  # an empty view cannot be cast
                    yield memoryview(limbs[spec.name]).cast("B")  # type: ignore[arg-type]

    def _limb_slices(self, offset: int, piece: Buffer) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """(own limbs, limbs to add to them) of each tensor that a piece of ``limb_pieces`` touches."""
        view = memoryview(piece)
        start, end = 0, offset + len(view)
        for limbs, dtype in ((self._high, np.int64), (self._low, np.int32)):
            for spec in self.specs:
                own: NDArray[Any] = limbs[spec.name]
                low, high = max(start, offset), min(start + own.nbytes, end)
                if low < high:
                    own = own[(low - start) // own.itemsize : (high - start) // own.itemsize]
                    yield own, np.frombuffer(view[low - offset : high - offset], dtype)
                start += limbs[spec.name].nbytes

    def carry(self) -> None:
        """Brings every ``low`` into its range; the value stays the same, and equal values get equal limbs."""
        for name, low in self._low.items():
            for block in _blocks(len(low)):
                carried = (low[block] + _HALF_CARRY) >> _LOW_BITS
                low[block] -= carried << _LOW_BITS
                self._high[name][block] += carried
        self._num_uncarried = 0

    def divided(self, spec: TensorSpec, total: int) -> Floats:
        """The sum of one tensor over ``total``, as float64 of the tensor's shape; off by at most 2**-51 of it."""
        mean: Floats = self._high[spec.name].astype(np.float64)
        mean *= _HIGH_STEP
        for block in _blocks(len(mean)):
            mean[block] += self._low[spec.name][block] * _LOW_STEP
        mean /= total
        return mean.reshape(spec.shape)

    def forget(self, spec: TensorSpec) -> None:
        """Frees the memory of one tensor; its sum is then no longer there."""
        del self._high[spec.name], self._low[spec.name]

    def limbs(self) -> dict[str, NDArray[Any]]:
        """All that the sum is, carried, as named flat arrays; they are the sum's own memory."""
        self.carry()
        arrays: dict[str, NDArray[Any]] = {}
        for spec in self.specs:
            arrays[f"high.{spec.name}"] = self._high[spec.name]
            arrays[f"low.{spec.name}"] = self._low[spec.name]
        return arrays

    @property
    def bound(self) -> float:
        """The sum of |weight * delta| is at most this, for every parameter."""
        return self._bound

    @bound.setter
    def bound(self, bound: float) -> None:
        self._bound = bound

    def _slices(self, offset: int, piece: Buffer) -> Iterator[tuple[TensorSpec, int, NDArray[Any]]]:
        """(spec, first element, values) of each tensor that a piece touches."""
        view = memoryview(piece)
        end = offset + len(view)
        first = bisect_right(self._starts, offset) - 1
        for index in range(max(first, 0), len(self.specs)):
            spec, start = self.specs[index], self._starts[index]
            if start >= end:
                return
            low, high = max(start, offset), min(start + spec.num_bytes, end)
            if low < high:
                raw = view[low - offset : high - offset]
                yield spec, (low - start) // spec.item_bytes, _values(raw, spec.dtype)


def _zeros(num: int, dtype: type[Integer]) -> NDArray[Integer]:
    """Zeros in memory of their own, which goes back to the system at once when it is let go."""
    num_bytes = num * np.dtype(dtype).itemsize
    if num_bytes < _OWN_MEMORY_BYTES:
        return np.zeros(num, dtype)
    return np.frombuffer(mmap.mmap(-1, num_bytes), dtype)


def _values(raw: memoryview, dtype: str) -> NDArray[Any]:
    """The bytes as an array; nothing is copied, but for bfloat16, which numpy does not know."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, dtype)


def _largest(values: NDArray[Any], spec: TensorSpec) -> float:
    """The largest magnitude; not finite values are an UnfitMessage."""
    largest = max(abs(float(values.max())), abs(float(values.min())))
    if not math.isfinite(largest):
        raise UnfitMessage(f"tensor '{spec.name}' holds NaN or infinity")
    return largest


def _add_small(high: NDArray[np.int64], low: NDArray[np.int32], values: NDArray[Any], weight: float) -> None:
    scaled, rounded = np.empty(_BLOCK), np.empty(_BLOCK)
    for block in _blocks(len(values)):
        num = len(values[block])
        x, r = scaled[:num], rounded[:num]
        np.multiply(values[block], weight / _HIGH_STEP, out=x, dtype=np.float64)
        np.add(x, _TO_HIGH, out=r)
        high[block] += r.view(np.int64) - _TO_HIGH_BITS
        r -= _TO_HIGH
        x -= r
        _add_low(low[block], x)


def _add_any(high: NDArray[np.int64], low: NDArray[np.int32], values: NDArray[Any], weight: float) -> None:
    for block in _blocks(len(values)):
        x = np.multiply(values[block], weight / _HIGH_STEP, dtype=np.float64)
        r = np.rint(x)
        high[block] += r.astype(np.int64)
        x -= r
        _add_low(low[block], x)


def _add_low(low: NDArray[np.int32], x: Floats) -> None:
    """``x`` is what is left below ``high``, in its steps: at most one half."""
    x += _TO_LOW
    low += x.view(np.int64).astype(np.int32)  # the low 32 bits of _TO_LOW are zero


def _blocks(num: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, num, _BLOCK))
