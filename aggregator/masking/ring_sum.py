"""The sum of masked updates, modulo 2^64 or 2^32: a few lines, since integers that wrap around add up in any order.

While a round is open this is noise: each update has its masks. Once the round's set is decided, the sum of the masks of
just these updates is taken off (``unmask``), in memory alone, and what is left is the sum of their weighted deltas.

    sum(weight * delta) = step * (sum of what came - sum of masks)        as a signed number

It takes as many bytes as one update.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds import Floats, Key, NoiseAt, spans_of
from aggregator.state import Accumulated, StateDirectory, Vote
from broker.wire import EXTRA_STEP, EXTRAS, Buffer, Masking, Specs, mask_sizes, num_bytes_of

_BLOCK = 2**15
_NOISE_TAIL = 9.0
"""Standard deviations: no draw of ``privacy/gaussian_noise.py`` is farther out than 8.6."""

Integers = NDArray[Any]


class Implausible(Exception):
    """What is left without the masks is no sum of updates that each keep to their limit. The text says where."""


class RingSum:
    """The running sum of masked updates with these specs: integers of 8 bytes, then integers of 4."""

    def __init__(self, specs: Specs, *, masking: Masking) -> None:
        self.specs, self._masking = specs, masking
        num_words, num_halves = mask_sizes(specs)
        self._words, self._halves = np.zeros(num_words, np.uint64), np.zeros(num_halves, np.uint32)
        self._places: dict[str, tuple[Integers, slice]] = {}
        starts = {8: 0, 4: 0}
        for spec in specs:
            of = self._words if spec.item_bytes == 8 else self._halves
            start = starts[spec.item_bytes]
            starts[spec.item_bytes] = start + spec.num_elements
            self._places[spec.name] = of, slice(start, start + spec.num_elements)

    # -- updates in and out ---------------------------------------------------------------------------------

    @property
    def takes_sums(self) -> bool:
        return True

    @property
    def bound(self) -> float:
        """Nothing is known of masked values."""
        return 0.0

    def begin_update(self, key: Key) -> None:
        """Does nothing: the sum does not depend on whose update it is."""

    def add(self, offset: int, piece: Buffer, weight: float, *, most: float = math.inf) -> None:
        """Adds a piece; the weight is in the update already, and 1 here."""
        for values, integers in self._slices(offset, piece):
            np.add(integers, values, out=integers)

    def add_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        self.add(offset, piece, 1.0)

    def end_update(self) -> None:
        """Does nothing: there is no carry."""

    def remove(self, offset: int, piece: Buffer, weight: float) -> None:
        for values, integers in self._slices(offset, piece):
            np.subtract(integers, values, out=integers)

    def remove_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        self.remove(offset, piece, 1.0)

    def end_removal(self, key: Key) -> None:
        """Does nothing."""

    def _slices(self, offset: int, piece: Buffer) -> Iterator[tuple[Integers, Integers]]:
        """(values in the piece, the integers that they belong to)."""
        view, border = memoryview(piece), self._words.nbytes
        inside = min(len(view), max(0, border - offset))
        if inside:
            values = np.frombuffer(view[:inside], np.uint64)
            yield values, self._words[offset // 8 : offset // 8 + len(values)]
        if inside < len(view):
            values, start = np.frombuffer(view[inside:], np.uint32), (offset + inside - border) // 4
            yield values, self._halves[start : start + len(values)]

    # -- on the disk ----------------------------------------------------------------------------------------

    @property
    def _arrays(self) -> dict[str, Integers]:
        arrays: dict[str, Integers] = {"words": self._words.view(np.int64), "halves": self._halves.view(np.int32)}
        return {name: array for name, array in arrays.items() if array.size}

    def save(self, directory: StateDirectory, name: str) -> str:
        return directory.save_sum(name, self._arrays)

    def load(self, directory: StateDirectory, saved: Accumulated) -> None:
        directory.load_sum(saved.file, saved.sha256, self._arrays)

    def files(self) -> frozenset[str]:
        return frozenset()

    @property
    def num_bytes(self) -> int:
        return num_bytes_of(self.specs)

    def limb_pieces(self) -> Iterator[memoryview]:
        """All of it as it travels, laid out like an update; nothing is copied."""
        for array in self._arrays.values():
            yield memoryview(array).cast("B")  # type: ignore[arg-type]

    # -- without the masks ----------------------------------------------------------------------------------

    def unmask(self, offset: int, piece: Buffer) -> None:
        """Takes off a piece of one keeper's sum of masks, which begins at byte ``offset``."""
        self.remove(offset, piece, 1.0)

    def check(self, num_updates: int, *, noise: float = 0.0) -> None:
        """Implausible if an element is larger than so many updates can make it. Once all masks are off.

        ``noise`` is the standard deviation of what keepers have added, in all, in steps.
        """
        most = num_updates * (self._masking.most / self._masking.step + 1) + _NOISE_TAIL * noise
        for name, (integers, place) in self._places.items():
            if name == EXTRAS:
                continue
            signed = _signed(integers[place])
            largest = max(abs(int(signed.max(initial=0))), abs(int(signed.min(initial=0))))
            if largest > most:
                raise Implausible(
                    f"without its masks, '{name}' in the sum of {num_updates} updates reaches {largest / most:.2g}"
                    " times what they can add up to; an update or a keeper's answer was not what it should have been"
                )

    def extras(self) -> Floats:
        """The sums of what updates say of themselves, in the order of ``Masking``. Once all masks are off."""
        integers, place = self._places[EXTRAS]
        return _signed(integers[place]).astype(np.float64) * EXTRA_STEP

    # -- what the next model is made from -------------------------------------------------------------------

    def add_noise(self, at: NoiseAt) -> None:
        raise ValueError("noise is added to masked updates by their keepers, or by the workers")

    def judge(self, counted: Collection[str]) -> Mapping[Key, Vote]:
        """Nothing: every update counts."""
        return {}

    def spans(self, specs: Specs) -> Iterator[Specs]:
        """Groups tensors of one dtype that follow each other both in the model and in the sum."""
        return spans_of(specs, lambda before, spec: self._follows(before.name, spec.name))

    def _follows(self, before: str, name: str) -> bool:
        if before not in self or name not in self:
            return False
        (one, place), (other, next_place) = self._places[before], self._places[name]
        return one is other and bool(place.stop == next_place.start)

    def means(
        self, span: Specs, divisor: float, *, start: int = 0, num: int | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        integers, first = self._places[span[0].name]
        whole = integers[first.start : self._places[span[-1].name][1].stop]
        values = _signed(whole[start : None if num is None else start + num])
        step = self._masking.step
        for begin in range(0, len(values), _BLOCK):
            block = slice(begin, min(begin + _BLOCK, len(values)))
            mean = values[block].astype(np.float64)
            mean *= step
            mean /= divisor
            yield block, mean

    def exactly(self, span: Specs, start: int, num: int) -> None:
        return None

    def forget(self, span: Specs) -> None:
        """Does nothing: all of it is one piece of memory, and goes with the round."""

    def __contains__(self, name: str) -> bool:
        return name in self._places


def _signed(integers: Integers) -> Integers:
    return integers.view(np.int64 if integers.itemsize == 8 else np.int32)
