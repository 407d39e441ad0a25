"""What updates are added to where they are no deltas to be averaged: exact sums, and extremes.

    sum        exact, however many updates there are and whatever their range; see planes.py
    min, max   element by element

All are the same in any order of the updates. An extreme cannot be taken back: where a run has one, an update that is in
stays in. Memory is that of a few updates, however many there are.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aggregator.rounds import Floats, Key, Layout, LeavesRange, NoiseAt
from aggregator.state import Accumulated, StateDirectory, Vote
from aggregator.sums.planes import Planes
from broker.wire import Buffer, Operation, Specs, TensorSpec, num_bytes_of
from console import UnfitMessage
from learning.sums import neutral

_EXTREME = "extreme"
_LARGEST = 2**62
"""Integers of one update are below it, in magnitude."""


class Totals:
    """The totals of updates with these specs, whose dtypes are floating-point or int64. Each counts once.

    Weights mean nothing here: a sum is over sites, and the divisor is 1.
    """

    takes_sums = False
    bound = 0.0

    def __init__(self, specs: Specs, operations: Mapping[str, Operation]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._operations = operations
        self._layout = Layout(specs)
        self._num_bytes = num_bytes_of(specs)
        self._sums = {name: Planes(spec.num_elements) for name, spec in self._specs.items() if self._is_sum(name)}
        self._extremes = {
            name: _begun(spec, operations[name]) for name, spec in self._specs.items() if not self._is_sum(name)
        }
        self._staged, self._num_staged = bytearray(self._num_bytes), 0
        """The update that is being added or taken out, as far as its pieces have come."""
        self._is_broken = False
        """Whether the last one broke off while it was added."""

    def _is_sum(self, name: str) -> bool:
        return self._operations[name] == "sum"

    # -- adding ---------------------------------------------------------------------------------------------

    def begin_update(self, key: Key) -> None:
        self._num_staged, self._is_broken = 0, False

    def add(self, offset: int, piece: Buffer, weight: float, *, most: float = math.inf) -> None:
        """Takes a piece of an update; it is added once all are there. An UnfitMessage if a value cannot be added."""
        for spec, _, values in self._layout.slices(offset, piece):
            self._check(spec.name, values)
        self._stage(offset, piece)

    def _stage(self, offset: int, piece: Buffer) -> None:
        self._staged[offset : offset + len(memoryview(piece))] = piece
        self._num_staged += len(memoryview(piece))

    def _check(self, name: str, values: NDArray[Any]) -> None:
        if np.issubdtype(values.dtype, np.floating):
            is_bad = ~np.isfinite(values) if self._is_sum(name) else np.isnan(values)
            if is_bad.any():
                raise UnfitMessage(f"tensor '{name}' holds NaN or infinity")
        elif self._is_sum(name) and len(values) and not (values.min() > -_LARGEST and values.max() < _LARGEST):
            raise UnfitMessage(f"tensor '{name}' holds integers beyond 2**62")

    def end_update(self) -> None:
        """Adds the update, unless it broke off: then its pieces are still to be removed, and none of it is in."""
        self._is_broken = self._num_staged != self._num_bytes
        if not self._is_broken:
            self._add_staged(sign=1)
        self._num_staged = 0

    def _add_staged(self, *, sign: int) -> None:
        for spec, _, values in self._layout.slices(0, bytes(self._staged)):
            name = spec.name
            if self._is_sum(name):
                self._sums[name].add(values, sign=sign)
            else:
                best = np.minimum if self._operations[name] == "min" else np.maximum
                # 0.0 and -0.0 are equal, so which of them stayed would depend on the order
                best(self._extremes[name], values + values.dtype.type(0), out=self._extremes[name])

    def add_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        raise UnfitMessage("a partial sum is of deltas, and this run has none")

    # -- taking out again -----------------------------------------------------------------------------------

    def remove(self, offset: int, piece: Buffer, weight: float) -> None:
        """Takes a piece of an update that is in; it is taken out once all are there."""
        if not self._is_broken:
            self._stage(offset, piece)

    def remove_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        raise UnfitMessage("there are no partial sums in it")

    def end_removal(self, key: Key) -> None:
        if not self._is_broken:
            if self._extremes:
                raise RuntimeError("an extreme cannot be taken back")
            self._add_staged(sign=-1)
        self._is_broken, self._num_staged = False, 0

    # -- keeping --------------------------------------------------------------------------------------------

    def save(self, directory: StateDirectory, name: str) -> str:
        return directory.save_sum(name, self._arrays())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        planes = {
            f"{number}/{name}": plane for name, sums in self._sums.items() for number, plane in sums.arrays().items()
        }
        return planes | {f"{_EXTREME}/{name}": values for name, values in self._extremes.items()}

    def load(self, directory: StateDirectory, saved: Accumulated) -> None:
        planes: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in self._sums}
        for full_name, array in directory.read_sum(saved.file, saved.sha256).items():
            kind, _, name = full_name.partition("/")
            if kind == _EXTREME:
                self._extremes[name] = array
            else:
                planes[name][kind] = array
        self._sums = {name: Planes.of(self._specs[name].num_elements, arrays) for name, arrays in planes.items()}

    def files(self) -> frozenset[str]:
        return frozenset()

    # -- reading --------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, torch.Tensor]:
        """What all updates are together: float64 or int64, in their shapes. LeavesRange if a sum fits neither."""
        return {name: torch.from_numpy(self._total(spec)).reshape(spec.shape) for name, spec in self._specs.items()}

    def _total(self, spec: TensorSpec) -> NDArray[Any]:
        if not self._is_sum(spec.name):
            return self._extremes[spec.name]
        sums = self._sums[spec.name]
        try:
            return sums.floats() if spec.is_float else sums.integers()
        except OverflowError:
            raise LeavesRange(f"the sum of '{spec.name}' over the sites leaves the range of its dtype") from None

    def __contains__(self, name: str) -> bool:
        return name in self._specs

    def add_noise(self, at: NoiseAt) -> None:
        raise ValueError("noise is added to a sum of updates, and this run has sums of another kind")

    def judge(self, counted: Collection[str]) -> Mapping[Key, Vote]:
        """Nothing: every update counts."""
        return {}

    def spans(self, specs: Specs) -> Iterator[Specs]:
        return ((spec,) for spec in specs)

    def means(
        self, span: Specs, divisor: float, *, start: int = 0, num: int | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        """The totals divided by ``divisor``, as floats."""
        values = self._total(self._specs[span[0].name])[start : None if num is None else start + num]
        yield slice(0, len(values)), values / np.float64(divisor)

    def exactly(self, span: Specs, start: int, num: int) -> None:
        return None

    def forget(self, span: Specs) -> None:
        """Does nothing: they are small."""


def _begun(spec: TensorSpec, operation: Operation) -> NDArray[Any]:
    """An extreme of nothing yet."""
    dtype = torch.float64 if spec.is_float else torch.int64
    return neutral(operation, torch.empty(spec.num_elements, dtype=dtype)).numpy()
