"""Three passes over updates on the disk: column by column, how far apart they are, and a weighted sum.

All give the same bits for the same updates in the same order: sums of several updates go from the first to the last,
block by block of elements, and never by way of BLAS, whose bits depend on its build and threads. What is in memory
does not depend on the number of updates nor on their size: some 16 MiB, of which each update has its share.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aggregator.robust import Columns, Floats
from aggregator.spool.update_file import UpdateFile, held_as
from broker.wire import TensorSpec

_MEMORY_BYTES = 16 * 2**20
_FIXED_BLOCK = 4096
"""Elements whose squares are summed at once: the differences to a hundred updates stay in a second-level cache. It is
part of the result, whose last bits depend on it."""

_SUMMED_BLOCK = 2**17
"""Elements of a weighted sum that are made at once: it takes three rows of them, however many updates there are."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Elements of one dtype that follow each other in every update."""

    offset: int
    """Where they begin, in bytes."""
    spec: TensorSpec
    """For their dtype; its shape does not matter."""
    num: int

    def part(self, start: int, stop: int) -> "Stretch":
        """Its elements from ``start`` to ``stop``."""
        return Stretch(self.offset + start * self.spec.item_bytes, self.spec, stop - start)


class Passes:
    """Passes over these updates, in this order. Blocks are valid until the next one."""

    def __init__(self, files: Sequence[UpdateFile]) -> None:
        self._files = files
        self._block = max(1, _MEMORY_BYTES // 8 // max(1, len(files)))
        self._memory = np.empty(0, np.uint8)
        """Kept between passes: to obtain it costs more than to fill it."""

    def columns(self, stretch: Stretch) -> Iterator[tuple[slice, Columns]]:
        """The values of each element in all updates, sorted, block by block: a row for each rank."""
        for place, columns in self._blocks(stretch, held_as(stretch.spec), self._block):
            columns.sort(axis=0)
            yield place, columns

    def weighted(self, stretch: Stretch, weights: Sequence[float], divisor: float) -> Iterator[tuple[slice, Floats]]:
        """The sum of weight times update, divided by ``divisor``, block by block."""
        row = np.empty(min(_SUMMED_BLOCK, stretch.num), held_as(stretch.spec))
        for begin in range(0, stretch.num, _SUMMED_BLOCK):
            part = stretch.part(begin, min(begin + _SUMMED_BLOCK, stretch.num))
            total, product = np.zeros(part.num), np.empty(part.num)
            for file, weight in zip(self._files, weights, strict=True):
                if weight:
                    file.read(part.offset, part.spec, row[: part.num])
                    np.multiply(row[: part.num], weight, out=product, dtype=np.float64)
                    total += product
            total /= divisor
            yield slice(begin, begin + part.num), total

    def distances(self, stretches: Sequence[Stretch]) -> Floats:
        """The squared Euclidean distance between any two updates over these elements.

        From differences, and not from products: |a|^2 + |b|^2 - 2ab of two that are near to each other has no digit
        left.
        """
        num = len(self._files)
        found = np.zeros((num, num))
        differences = np.empty((num, _FIXED_BLOCK))
        size = max(_FIXED_BLOCK, self._block // _FIXED_BLOCK * _FIXED_BLOCK)
        for stretch in stretches:
            for _, rows in self._blocks(stretch, np.dtype(np.float64), size):
                for begin in range(0, rows.shape[1], _FIXED_BLOCK):
                    _add_squares(found, rows[:, begin : begin + _FIXED_BLOCK], differences)
        return found + found.T

    def _blocks(self, stretch: Stretch, dtype: np.dtype[Any], size: int) -> Iterator[tuple[slice, Columns]]:
        """A row for each update, block by block of ``size`` elements."""
        held = held_as(stretch.spec)
        for begin in range(0, stretch.num, size):
            part = stretch.part(begin, min(begin + size, stretch.num))
            rows = self._rows(part.num, dtype)
            row = np.empty(part.num, held)
            for index, file in enumerate(self._files):
                if dtype == held:
                    file.read(part.offset, part.spec, rows[index])
                else:
                    file.read(part.offset, part.spec, row)
                    rows[index] = row
            yield slice(begin, begin + part.num), rows

    def _rows(self, num_columns: int, dtype: np.dtype[Any]) -> Columns:
        num_bytes = len(self._files) * num_columns * dtype.itemsize
        if len(self._memory) < num_bytes:
            self._memory = np.empty(num_bytes, np.uint8)
        return self._memory[:num_bytes].view(dtype).reshape(len(self._files), num_columns)


def _add_squares(found: Floats, rows: Floats, differences: Floats) -> None:
    """Adds the squared distance of each update to those before it."""
    for index in range(1, len(rows)):
        difference = differences[:index, : rows.shape[1]]
        np.subtract(rows[:index], rows[index], out=difference)
        np.multiply(difference, difference, out=difference)
        found[index, :index] += np.add.reduce(difference, axis=1)
