"""How far each update of a round goes, and whether it goes where their mean goes: its norm, and a cosine.

The mean is known when the round closes, and by then the updates are gone. So each leaves a sketch, which is linear: the
weighted sum of the sketches is the sketch of the mean, and inner products of sketches are those of the updates, with a
standard error of |x| |y| / 32, so 0.03 for a cosine (Charikar, Chen & Farach-Colton 2002, "Finding frequent items in
data streams"): element i is added, with a random sign, to number i mod 1024.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.accumulator import Key
from aggregator.rounds.exact_sum import Layout, numbers
from broker.wire import Buffer, Specs, TensorSpec
from console import UnfitMessage

_SIZE = 1024
_BLOCK = 64 * _SIZE
"""Elements worked on at a time: they stay in a second-level cache."""
_MOST = 2000
"""Updates of one round of which a sketch is kept, 8 MB of them; with more, no cosine is given."""

Float32 = NDArray[np.float32]


class Directions:
    """The norms and sketches of one round's updates, over the floating-point tensors among the names ``counted``.

    4 KiB for each update, however large the model is.
    """

    def __init__(self, specs: Specs, counted: Collection[str]) -> None:
        self._places = _places_of(specs, frozenset(counted))
        self._block = np.zeros(_BLOCK, np.float32)
        self._sketches: dict[Key, tuple[float, Float32]] = {}
        """Update -> its weight and sketch."""
        self._begun, self._squares = np.zeros(_SIZE, np.float32), 0.0
        self.are_all_there = True
        """Whether each update that is in the round's mean has a sketch."""

    def begin(self) -> None:
        """Announces the pieces of the next update."""
        self._begun, self._squares = np.zeros(_SIZE, np.float32), 0.0

    def add(self, offset: int, piece: Buffer) -> None:
        """Looks at a piece of its payload that begins at byte ``offset``; cut as an Accumulator wants it."""
        with np.errstate(all="ignore"):  # what overflows becomes a norm that is not finite
            for spec, start, values in self._places.layout.slices(offset, piece):
                if spec.name in self._places.first:
                    self._look_at(
                        numbers(values, spec).astype(np.float32, copy=False), self._places.first[spec.name] + start
                    )

    def _look_at(self, values: Float32, first: int) -> None:
        while len(values):
            row, place = divmod(first, _SIZE)
            num = min(len(values), _BLOCK - place)
            num_rows = -(-(place + num) // _SIZE)
            block = self._block[: num_rows * _SIZE]
            block[:place] = 0
            block[place : place + num] = values[:num]
            block[place + num :] = 0
            self._squares += float(block @ block)
            self._turn_signs(block, row)
            self._begun += block.reshape(num_rows, _SIZE).sum(axis=0)
            values, first = values[num:], first + num

    def _turn_signs(self, block: Float32, row: int) -> None:
        at = row * _SIZE // 8
        bits = np.unpackbits(self._places.signs[at : at + len(block) // 8]).astype(np.uint32)
        np.left_shift(bits, 31, out=bits)
        as_bits = block.view(np.uint32)
        np.bitwise_xor(as_bits, bits, out=as_bits)

    def end(self, key: Key, weight: float) -> float | None:
        """Its Euclidean norm, once all pieces have been; None if that is beyond float32."""
        norm = math.sqrt(self._squares) if math.isfinite(self._squares) else None
        if norm is None or len(self._sketches) >= _MOST:
            self.are_all_there = False
        else:
            self._sketches[key] = weight, self._begun
        return norm

    def take_out(self, key: Key) -> None:
        """The update does not count after all."""
        self._sketches.pop(key, None)

    def cosines(self) -> Mapping[Key, float]:
        """For each update, the cosine of the angle between it and the weighted mean of all; of those that have one.

        Empty unless all are there.
        """
        if not self.are_all_there or not self._sketches:
            return {}
        wide = {key: (weight, sketch.astype(np.float64)) for key, (weight, sketch) in self._sketches.items()}
        mean = sum((weight * sketch for weight, sketch in wide.values()), np.zeros(_SIZE))
        length = np.linalg.norm(mean)
        lengths = {key: float(np.linalg.norm(sketch) * length) for key, (_, sketch) in wide.items()}
        return {
            key: max(-1.0, min(1.0, float(sketch @ mean) / lengths[key]))
            for key, (_, sketch) in wide.items()
            if lengths[key] > 0
        }


class _Places:
    """Where the elements that count lie, and their signs."""

    def __init__(self, specs: Specs, counted: Collection[str]) -> None:
        together = list(_together(specs, counted))
        self.layout = Layout([spec for spec, _ in together])
        self.first: dict[str, int] = {}
        """Neighbours, by the name of the first -> the number of their first element among all that count."""
        num_elements = 0
        for spec, is_counted in together:
            if is_counted:
                self.first[spec.name] = num_elements
                num_elements += spec.num_elements
        self.signs = np.frombuffer(np.random.default_rng(0).bytes(_SIZE // 8 * (num_elements // _SIZE + 1)), np.uint8)
        """A bit for each element; set: minus."""


_places_of = lru_cache(maxsize=2)(_Places)
"""The same for every round of a run."""


def _together(specs: Specs, counted: Collection[str]) -> Iterator[tuple[TensorSpec, bool]]:
    """Neighbours of one dtype as one tensor, named after the first, and whether they count."""
    for (_, is_counted), alike in groupby(specs, key=lambda spec: (spec.dtype, spec.is_float and spec.name in counted)):
        first, *others = alike
        num_elements = first.num_elements + sum(spec.num_elements for spec in others)
        yield first._replace(shape=(num_elements,)), is_counted


_LENGTH_TOLERANCE = 1e-6
"""Relative; where updates are clipped they are cut towards zero, and so never longer by more than rounding."""


class Length:
    """The Euclidean norm of one update over all of its tensors, in float64."""

    def __init__(self, specs: Specs) -> None:
        self._layout, self._squares = Layout(specs), 0.0

    def add(self, offset: int, piece: Buffer) -> None:
        """Looks at a piece of its payload that begins at byte ``offset``."""
        for spec, _, values in self._layout.slices(offset, piece):
            self._squares += float(np.square(numbers(values, spec), dtype=np.float64).sum())

    def check(self, most: float) -> None:
        """An UnfitMessage if it is longer than this."""
        norm = math.sqrt(self._squares)
        if not norm <= most * (1 + _LENGTH_TOLERANCE):
            raise UnfitMessage(f"its norm is {norm:.6g}, and this run clips updates to {most:g}")
