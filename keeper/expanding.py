"""The sum of a round's masks, begun while updates still come: constant memory, however many masks are in it.

Sums are modulo 2^64, and 2^32, so a mask that turns out not to be wanted is taken out again without a trace.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from broker.wire import Buffer
from privacy import GaussianNoise, Mask

_BLOCK = 2**14
"""Integers worked on at a time: they stay in the cache."""
_MASKS_AT_A_TIME = 16
"""Masks in one pass over the sum; each has some memory of its own."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many integers of 8 and of 4 bytes a mask has; those of 8 come first."""

    num_words: int
    num_halves: int

    @property
    def num_bytes(self) -> int:
        return 8 * self.num_words + 4 * self.num_halves


class MaskSum:
    """A running sum of masks of these sizes. ``seeds`` are known by the digest of the message that they came in."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._words: NDArray[np.uint64] = np.zeros(sizes.num_words, "<u8")
        self._halves: NDArray[np.uint32] = np.zeros(sizes.num_halves, "<u4")
        self._seeds: dict[str, bytes] = {}

    @property
    def known(self) -> frozenset[str]:
        """The digests of the seeds whose masks are in it."""
        return frozenset(self._seeds)

    def hold(self, seeds: Mapping[str, bytes], *, goes_on: Callable[[], bool] = lambda: True) -> bool:
        """Makes it the sum of the masks of exactly these seeds; what is in it already is not expanded again.

        False, and the sum is of no use any more, if ``goes_on`` says no in between.
        """
        surplus = {sha256: seed for sha256, seed in self._seeds.items() if sha256 not in seeds}
        self._seeds = {sha256: seed for sha256, seed in self._seeds.items() if sha256 in seeds}
        return self._expand(list(surplus.values()), goes_on, is_taken_out=True) and self.add(seeds, goes_on=goes_on)

    def add(self, seeds: Mapping[str, bytes], *, goes_on: Callable[[], bool] = lambda: True) -> bool:
        """Adds the masks of those of these seeds that are not in it. False as in ``hold``."""
        missing = {sha256: seed for sha256, seed in seeds.items() if sha256 not in self._seeds}
        self._seeds |= missing
        return self._expand(list(missing.values()), goes_on)

    def noised(self, noise: GaussianNoise | None, *, apart: tuple[int, int] | None = None) -> None:
        """Takes this noise out of the sum, so that it is in what is left when the sum is taken off masked updates.

        ``apart``: the place of the one integer of 8 bytes that has noise of its own, and that. It is a sum of masks no
        more afterwards: nothing can be added to it.
        """
        self._seeds = {}
        if noise is None:
            return
        own = None if apart is None else int(self._words[apart[0]]) - apart[1]
        for start in range(0, self.sizes.num_words, _BLOCK):
            block = self._words[start : start + _BLOCK]
            block -= noise.at(start, len(block)).view(np.uint64)
        for start in range(0, self.sizes.num_halves, _BLOCK):
            part = self._halves[start : start + _BLOCK]
            part -= noise.at(self.sizes.num_words + start, len(part)).view(np.uint64).astype(np.uint32)
        if apart is not None and own is not None:
            self._words[apart[0]] = own % 2**64

    def pieces(self) -> tuple[Buffer, ...]:
        """Its bytes, as ``mask_specs`` describes them: little-endian, first those of 8 bytes, then those of 4."""
        return tuple(array.data.cast("B") for array in (self._words, self._halves) if array.size)

    def _expand(self, seeds: list[bytes], goes_on: Callable[[], bool], *, is_taken_out: bool = False) -> bool:
        for first in range(0, len(seeds), _MASKS_AT_A_TIME):
            masks = [Mask(seed) for seed in seeds[first : first + _MASKS_AT_A_TIME]]
            for block, offset in self._blocks():
                if not goes_on():
                    return False
                if is_taken_out:
                    np.negative(block, out=block)
                for mask in masks:
                    mask.add_to(block, offset)
                if is_taken_out:
                    np.negative(block, out=block)
        return True

    def _blocks(self) -> Iterator[tuple[NDArray[np.uint64] | NDArray[np.uint32], int]]:
        """The integers, block by block, and the byte of a mask at which each begins."""
        begin = 0
        for integers in (self._words, self._halves):
            for start in range(0, len(integers), _BLOCK):
                yield integers[start : start + _BLOCK], begin + start * integers.itemsize
            begin += integers.nbytes
