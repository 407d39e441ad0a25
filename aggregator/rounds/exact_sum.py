"""The exact weighted sum of updates: the same bits in any order, with any split into partial sums.

Floats do not add associatively, integers do. Each product ``weight * delta`` (exact in float64 for float32 deltas)
is rounded once onto a fixed grid of 2**-58 and held as two integers:

    value = high * 2**-32 + low * 2**-58        high: int64, low: int32, |low| <= 2**25 after a carry (wire/limbs.py)

So a parameter takes 12 bytes. The loss is at most 2**-59 (2e-18) an update, far below the rounding of the float32
result for any delta a training step makes; the sum of |weight * delta| may reach 2**30 (1e9). Two int64 limbs would
give a range that no model needs, for a third more memory; a single limb cannot hold both ends of this range.

Since integers also subtract, an update can be taken out again, and not a bit of it remains.

Rounding to the grid adds a float so large (1.5 * 2**52 grid steps) that its unit in the last place is the grid
step; the low bits of the sum are then the integer. That is one vector addition, where rint and a cast are slow.

In numpy, everything is done block by block in memory that the sum owns: the passes over a block find it in the cache,
and adding a float32 update allocates nothing. Small tensors that follow each other share a block, since a call costs as
much as a thousand elements. Where a compiled loop was built (`fold_kernel.py`), it adds float32, to the same bits; the
bottleneck is then the memory traffic of the limbs, 24 bytes a parameter.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.accumulator import Floats, Key, NoiseAt, spans_of
from aggregator.rounds.fold_kernel import Kernel
from aggregator.state import Accumulated, StateDirectory, Vote
from broker.states import OnGrid, memory_of
from broker.wire import (
    HIGH_STEP,
    LOW_BITS,
    LOW_STEP,
    MAX_LOW,
    MAX_SUM,
    Buffer,
    KeptSpecs,
    Specs,
    TensorSpec,
    limb_bytes_of,
    limb_specs,
)
from console import UnfitMessage

Integer = TypeVar("Integer", bound=np.integer[Any])

_FOLDS_BEFORE_CARRY = 32

_TO_HIGH = 1.5 * 2.0**52
_TO_LOW = _TO_HIGH * 2.0**-LOW_BITS
_TO_HIGH_BITS = np.float64(_TO_HIGH).view(np.int64)
_SMALL = 2.0**18
"""Products below it can be rounded by addition; larger ones are rounded and cast, with the same result."""

_BLOCK = 2**15
"""Elements worked on at a time: the two float64 blocks of a Scratch stay in a second-level cache of 1 MiB. Half as many
cost more in calls, twice as many fall out of the cache."""
_EXACT_UNCARRIED = 2.0**20
"""Below it, a quotient does not depend on what was carried; above, only equal limbs give equal quotients."""


class Scratch:
    """Two float64 blocks to work in, so that working on a block allocates nothing."""

    def __init__(self, num_elements: int = _BLOCK) -> None:
        self.scaled, self.rest = np.empty(num_elements), np.empty(num_elements)


class ExactSum:
    """The running sum of ``weight * delta`` over updates, tensor by tensor.

    ``specs`` are those of the updates, in canonical order. It takes 12 bytes a parameter, whatever is added.
    With a ``kernel``, float32 is added by compiled code, to the same bits.
    """

    def __init__(self, specs: Specs, *, kernel: Kernel | None = None) -> None:
        self.specs = specs
        self._kernel = kernel
        self._groups = _groups_of(specs)
        self._high = {spec.name: _zeros(spec.num_elements, np.int64) for spec in self._groups.specs}
        self._low = {spec.name: _zeros(spec.num_elements, np.int32) for spec in self._groups.specs}
        self._num_kept = Counter(self._groups.sizes)
        self._scratch = Scratch(min(_BLOCK, max((spec.num_elements for spec in self._groups.specs), default=0)))
        self._bound = Fraction(0)
        """Exact, like the sum: what is removed leaves no trace, whatever was added meanwhile."""
        self._largest_piece = 0.0
        """The bound of the update that is being added or removed, as far as its pieces have come."""
        self._num_uncarried = 0
        self._is_carried = True

    @cached_property
    def limb_specs(self) -> Specs:
        """The specs of the limbs, as they travel in a partial sum."""
        return limb_specs(self.specs)

    @cached_property
    def _limb_layout(self) -> "Layout":
        return Layout(self.limb_specs)

    @property
    def takes_sums(self) -> bool:
        return True

    def begin_update(self, key: Key) -> None:
        """Does nothing: the sum does not depend on whose update it is."""

    def add(self, offset: int, piece: Buffer, weight: float, *, most: float = math.inf) -> None:
        """Adds ``weight`` times a piece of an update's payload that begins at byte ``offset``.

        A piece begins at a multiple of 8 bytes and ends at one, or at the end of the payload. An UnfitMessage if it
        holds NaN or infinity, leaves the range, or reaches ``most``; then nothing of this piece was added.
        """
        slices = list(self._groups.layout.slices(offset, piece))
        bound = self._bound_of(slices, weight)
        if not bound < most:
            raise UnfitMessage(
                f"num_samples times delta reaches {bound:.3g}; a single update must stay below {most:.3g},"
                " so that there is room for the others"
            )
        self._admit(bound)
        self._put(slices, weight, bound)

    def remove(self, offset: int, piece: Buffer, weight: float) -> None:
        """Takes out what ``add`` put in for this piece and weight: the same integers with the opposite sign.

        Rounding half to even treats both signs alike, so not a bit of it remains, in whatever pieces it was added.
        """
        slices = list(self._groups.layout.slices(offset, piece))
        bound = self._bound_of(slices, weight)
        self._put(slices, -weight, bound)

    def _bound_of(self, slices: "_Slices", weight: float) -> float:
        """The largest product in these slices; an UnfitMessage if a value is not finite."""
        return abs(weight) * max((self._largest_finite(*each) for each in slices), default=0.0)

    def _put(self, slices: "_Slices", weight: float, bound: float) -> None:
        self._largest_piece = max(self._largest_piece, bound)
        self._is_carried = False
        add = _add_small if bound < _SMALL else _add_any
        for spec, start, values in slices:
            high, low = self._high[spec.name][start:], self._low[spec.name][start:]
            if bound < _SMALL and self._is_compiled_for(values):
                assert self._kernel is not None
                self._kernel.add(high, low, values, weight / HIGH_STEP, _TO_HIGH, HIGH_STEP / LOW_STEP)
                continue
            for block in _blocks(len(values)):
                add(high[block], low[block], self._numbers(values[block], spec), weight, self._scratch)

    def add_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        """Adds a piece of the payload of another sum's limbs, as ``limb_specs`` has them and ``limbs`` gives them.

        ``bound`` is the other sum's. Pieces are cut like those of updates, and ``end_update`` ends them, too. An
        UnfitMessage if limbs are not carried, or larger than ``bound`` allows; then nothing of this piece was added.
        """
        slices = list(self._limb_layout.slices(offset, piece))
        if not bound >= 0:
            raise UnfitMessage(f"the bound of a partial sum cannot be {bound}")
        for spec, _, values in slices:
            limit = (bound + 1) / HIGH_STEP if spec.dtype == "int64" else MAX_LOW
            if not self._largest(values, spec) <= limit:
                raise UnfitMessage(f"partial sum: '{spec.name}' is larger than its bound of {bound:.3g} allows")
        self._admit(bound)
        self._put_limbs(slices, np.add, bound)

    def remove_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        """Takes out what ``add_limbs`` put in for this piece."""
        self._put_limbs(list(self._limb_layout.slices(offset, piece)), np.subtract, bound)

    def _put_limbs(self, slices: "_Slices", operation: np.ufunc, bound: float) -> None:
        self._largest_piece = max(self._largest_piece, bound)
        self._is_carried = False
        for spec, start, values in slices:
            limb, _, name = spec.name.partition(".")
            high, low = self._limbs_of(name)
            sums: NDArray[Any] = (high if limb == "high" else low)[start : start + len(values)]
            operation(sums, values, out=sums)

    def end_update(self) -> None:
        """Announces that all pieces of one update, or of one partial sum, have been added."""
        self._bound += self._end_pieces()

    def end_removal(self, key: Key) -> None:
        """Announces that all pieces that were in of one update, or of one partial sum, have been removed."""
        self._bound = max(Fraction(0), self._bound - self._end_pieces())  # one that was saved is rounded

    def _end_pieces(self) -> Fraction:
        """The bound of what was added or removed; ``low`` may have come nearer to its limit in either case."""
        bound, self._largest_piece = Fraction(self._largest_piece), 0.0
        self._num_uncarried += 1
        if self._num_uncarried == _FOLDS_BEFORE_CARRY:
            self.carry()
        return bound

    def _admit(self, bound: float) -> None:
        """Raises an UnfitMessage if adding values of at most ``bound`` in magnitude could leave the range."""
        if not self.bound + bound < MAX_SUM:
            raise UnfitMessage(
                f"num_samples times delta reaches {bound:.3g}; the sum over a round must stay below {MAX_SUM:.3g}"
            )

    def add_noise(self, at: NoiseAt) -> None:
        """Adds noise to the high limbs. Elements are counted in the order of ``specs``."""
        first, largest = 0, 0
        for spec in self.specs:
            high, _ = self._limbs_of(spec.name)
            for block in _blocks(len(high)):
                noise = at(first + block.start, block.stop - block.start)
                largest = max(largest, int(noise.max(initial=0)), -int(noise.min(initial=0)))
                high[block] += noise
            first += len(high)
        self.bound += largest * HIGH_STEP

    def carry(self) -> None:
        """Brings every ``low`` into its range; the value stays the same, and equal values get equal limbs."""
        if self._is_carried:
            return
        for name, low in self._low.items():
            for block in _blocks(len(low)):
                _carry(self._high[name][block], low[block], self._scratch)
        self._num_uncarried = 0
        self._is_carried = True

    def __contains__(self, name: str) -> bool:
        return name in self._groups.places

    def judge(self, counted: Collection[str]) -> Mapping[Key, Vote]:
        """Nothing: every update counts."""
        return {}

    def spans(self, specs: Specs) -> Iterator[Specs]:
        """Groups tensors that can be taken at once: those that follow each other both in the model and in the sum."""
        return iter(_spans_in(self._groups, specs))

    def means(
        self, span: Specs, divisor: float, *, start: int = 0, num: int | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        """The sum divided by ``divisor``, flat, block by block, as float64; off by at most 2**-51 of it.

        Covers one tensor, or several that follow each other: ``num`` elements (None: all) from ``start`` on, where the
        slices count from. A block lies in the sum's own memory: it may be changed, and is valid until the next one.
        """
        if self.bound >= _EXACT_UNCARRIED:
            self.carry()
        of_all = self._limbs_of(span[0].name, span[-1].name)
        high, low = (limb[start : None if num is None else start + num] for limb in of_all)
        for block in _blocks(len(high)):
            size = len(high[block])
            mean, rest = self._scratch.scaled[:size], self._scratch.rest[:size]
            np.multiply(high[block], HIGH_STEP, out=mean)
            np.multiply(low[block], LOW_STEP, out=rest)
            mean += rest
            mean /= divisor
            yield block, mean

    def exactly(self, span: Specs, start: int, num: int) -> OnGrid:
        high, low = self._limbs_of(span[0].name, span[-1].name)
        return OnGrid(high[start : start + num], low[start : start + num].astype(np.int64))

    def forget(self, span: Specs) -> None:
        """Their sums are no longer needed; the memory of a group is free once its last tensor is forgotten."""
        name, _ = self._groups.places[span[0].name]
        self._num_kept[name] -= len(span)
        if not self._num_kept[name]:
            del self._high[name], self._low[name]

    def limbs(self) -> dict[str, NDArray[Any]]:
        """The whole sum, carried, as named flat arrays; they are the sum's own memory."""
        self.carry()
        arrays: dict[str, NDArray[Any]] = {}
        for spec in self.specs:
            arrays[f"high.{spec.name}"], arrays[f"low.{spec.name}"] = self._limbs_of(spec.name)
        return arrays

    def save(self, directory: StateDirectory, name: str) -> str:
        return directory.save_sum(name, self.limbs())

    def load(self, directory: StateDirectory, saved: Accumulated) -> None:
        directory.load_sum(saved.file, saved.sha256, self.limbs())
        self.bound = saved.bound

    def files(self) -> frozenset[str]:
        return frozenset()

    @property
    def num_bytes(self) -> int:
        """The size of the limbs."""
        return limb_bytes_of(self.specs)

    def limb_pieces(self) -> Iterator[memoryview]:
        """The payload of the limbs, in the order of ``limb_specs``, one tensor at a time; nothing is copied."""
        limbs = self.limbs()
        for spec in self.limb_specs:
            if spec.num_elements:  # an empty view cannot be cast
                yield memoryview(limbs[spec.name]).cast("B")  # type: ignore[arg-type]

    @property
    def bound(self) -> float:
        """The sum of |weight * delta| is at most this, for every parameter."""
        return float(self._bound)

    @bound.setter
    def bound(self, bound: float) -> None:
        self._bound = Fraction(bound)

    def _limbs_of(self, name: str, last: str | None = None) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The limbs of one tensor, or of the tensors from it up to ``last``."""
        group, place = self._groups.places[name]
        place = slice(place.start, self._groups.places[last or name][1].stop)
        return self._high[group][place], self._low[group][place]

    def _largest_finite(self, spec: TensorSpec, start: int, values: NDArray[Any]) -> float:
        """The largest magnitude in a piece of a group; an UnfitMessage if a value is not finite."""
        largest = self._largest(values, spec)
        if not math.isfinite(largest):
            bad = self._groups.name_at(spec.name, start + self._first_not_finite(values, spec))
            raise UnfitMessage(f"tensor '{bad}' holds NaN or infinity")
        return largest

    def _largest(self, values: NDArray[Any], spec: TensorSpec) -> float:
        """The largest magnitude; NaN or infinity if there is one."""
        largest = 0.0
        for of_block in self._largest_of_blocks(values, spec):
            if not of_block <= largest:
                largest = of_block
                if not math.isfinite(largest):
                    break
        return largest

    def _first_not_finite(self, values: NDArray[Any], spec: TensorSpec) -> int:
        for block in _blocks(len(values)):
            is_finite = np.isfinite(self._numbers(values[block], spec))
            if not is_finite.all():
                return int(block.start + is_finite.argmin())
        raise AssertionError("all are finite")

    def _largest_of_blocks(self, values: NDArray[Any], spec: TensorSpec) -> Iterator[float]:
        if self._is_compiled_for(values):
            assert self._kernel is not None
            yield self._kernel.largest(values)
            return
        for block in _blocks(len(values)):
            numbers = self._numbers(values[block], spec)
            yield max(float(numbers.max()), -float(numbers.min()))

    def _is_compiled_for(self, values: NDArray[Any]) -> bool:
        return self._kernel is not None and values.dtype == np.float32 and values.flags.aligned

    def _numbers(self, values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
        """A block as numbers. A bfloat16, which numpy does not know, is the upper half of a float32."""
        if spec.dtype == "float16":  # slow to compare directly
            wide = self._scratch.rest.view(np.float32)[: len(values)]
            np.copyto(wide, values)
            return wide
        if spec.dtype != "bfloat16":
            return values
        bits = self._scratch.rest.view(np.uint32)[: len(values)]
        np.left_shift(values, 16, out=bits, dtype=np.uint32)
        return bits.view(np.float32)


class _Groups:
    """Adjacent tensors of one dtype, treated as one: a large one alone, or small ones that fit into a block."""

    def __init__(self, specs: Specs) -> None:
        self.specs: list[TensorSpec] = []
        """Each group as one tensor, named after its first."""
        self.places: dict[str, tuple[str, slice]] = {}
        """Tensor -> its group, and its place in the group."""
        self.sizes: dict[str, int] = {}
        """Group -> how many tensors are in it."""
        for spec in specs:
            group = self.specs[-1] if self.specs else None
            if group is None or group.dtype != spec.dtype or group.num_elements + spec.num_elements > _BLOCK:
                group = spec._replace(shape=(0,))
                self.specs.append(group)
            start, stop = group.num_elements, group.num_elements + spec.num_elements
            self.specs[-1] = group._replace(shape=(stop,))
            self.places[spec.name] = (group.name, slice(start, stop))
            self.sizes[group.name] = self.sizes.get(group.name, 0) + 1
        self.layout = Layout(self.specs)

    def follows(self, before: TensorSpec, spec: TensorSpec) -> bool:
        """Whether a tensor's sum lies directly after another's."""
        if before.name not in self.places or spec.name not in self.places:
            return False
        (one, place), (other, next_place) = self.places[before.name], self.places[spec.name]
        return bool(one == other and place.stop == next_place.start)

    def name_at(self, group: str, index: int) -> str:
        """The tensor that an element of a group belongs to."""
        places = self.places.items()
        return next(name for name, (of, place) in places if of == group and place.start <= index < place.stop)


_groups_of = lru_cache(maxsize=2)(_Groups)
"""The same for every round of a run."""


@lru_cache(maxsize=2)
def _spans_in(groups: _Groups, specs: Specs) -> tuple[KeptSpecs, ...]:
    """The same, too: what a sum's ``spans`` are of a model with these specs."""
    return tuple(map(KeptSpecs, spans_of(specs, groups.follows)))


class Layout:
    """Where in a payload each tensor lies."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = specs
        self._starts = [0, *accumulate(spec.num_bytes for spec in specs)]

    def slices(self, offset: int, piece: Buffer) -> Iterator[tuple[TensorSpec, int, NDArray[Any]]]:
        """(spec, first element, values) of each tensor that a piece touches; nothing is copied."""
        view = memoryview(piece)
        end = offset + len(view)
        first = bisect_right(self._starts, offset) - 1
        for index in range(max(first, 0), len(self._specs)):
            spec, start, stop = self._specs[index], self._starts[index], self._starts[index + 1]
            if start >= end:
                return
            low, high = max(start, offset), min(stop, end)
            if low < high:
                dtype = "uint16" if spec.dtype == "bfloat16" else spec.dtype
                yield spec, (low - start) // spec.item_bytes, np.frombuffer(view[low - offset : high - offset], dtype)


def numbers(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Values from a payload as numbers. A bfloat16, which numpy does not know, is the upper half of a float32."""
    if spec.dtype == "bfloat16":
        return np.left_shift(values, 16, dtype=np.uint32).view(np.float32)  # type: ignore[no-any-return]
    return values


_Slices = Sequence[tuple[TensorSpec, int, NDArray[Any]]]
"""What ``Layout.slices`` gives."""


def _zeros(num: int, dtype: type[Integer]) -> NDArray[Integer]:
    zeros = np.frombuffer(memory_of(num * np.dtype(dtype).itemsize), dtype)
    zeros.fill(0)
    return zeros


def _add_small(
    high: NDArray[np.int64], low: NDArray[np.int32], values: NDArray[Any], weight: float, scratch: Scratch
) -> None:
    """Adds a block in which no product reaches ``_SMALL``."""
    num = len(values)
    x, r = scratch.scaled[:num], scratch.rest[:num]
    np.copyto(x, values)  # separate from the multiplication, which would cast through a buffer of its own
    np.multiply(x, weight / HIGH_STEP, out=x)
    np.add(x, _TO_HIGH, out=r)
    np.add(high, r.view(np.int64), out=high)
    np.subtract(high, _TO_HIGH_BITS, out=high)
    np.subtract(r, _TO_HIGH, out=r)
    np.subtract(x, r, out=x)
    _add_low(low, x, r)


def _add_any(
    high: NDArray[np.int64], low: NDArray[np.int32], values: NDArray[Any], weight: float, scratch: Scratch
) -> None:
    """Adds any block; slower, and allocates."""
    num = len(values)
    x, r = scratch.scaled[:num], scratch.rest[:num]
    np.copyto(x, values)
    np.multiply(x, weight / HIGH_STEP, out=x)
    np.rint(x, out=r)
    high += r.astype(np.int64)
    np.subtract(x, r, out=x)
    _add_low(low, x, r)


def _add_low(low: NDArray[np.int32], x: Floats, free: Floats) -> None:
    """Adds ``x``, the remainder below ``high``, in steps of ``high``: at most one half."""
    integers = free.view(np.int32)[: len(x)]
    np.add(x, _TO_LOW, out=x)
    np.copyto(integers, x.view(np.int64), casting="unsafe")  # the low 32 bits of _TO_LOW are zero
    np.add(low, integers, out=low)


def _carry(high: NDArray[np.int64], low: NDArray[np.int32], scratch: Scratch) -> None:
    carried, wide = scratch.rest.view(np.int32)[: len(low)], scratch.scaled.view(np.int64)[: len(low)]
    np.add(low, MAX_LOW, out=carried)
    np.right_shift(carried, LOW_BITS, out=carried)
    np.copyto(wide, carried)
    np.add(high, wide, out=high)
    np.left_shift(carried, LOW_BITS, out=carried)
    np.subtract(low, carried, out=low)


def _blocks(num: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, num)) for start in range(0, num, _BLOCK))
