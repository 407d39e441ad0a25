"""An accumulator that keeps each update in a file of its own, and has a robust rule make one of them at the end.

The commit rule holds as for a sum: an update is on the disk, synced, before the transaction that names it, and its
delivery is acked after that. What is saved under the commit's name is a list of the files and their digests.

Updates are always taken in the order of their keys, so that the order in which they came changes no bit.
"""

import json
import math
import weakref
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from aggregator.robust import Choosing, Columnwise, Median, Rule
from aggregator.rounds import Floats, Key, Layout, NoiseAt, TooFew, numbers, spans_of
from aggregator.spool.passes import Passes, Stretch
from aggregator.spool.update_file import UpdateFile
from aggregator.state import Accumulated, StateDirectory, Vote
from broker.wire import Buffer, Specs, TensorSpec, num_bytes_of
from console import UnfitMessage

_OF_ALL = Median()
"""How a rule that chooses whole updates moves the tensors that it does not look at: they go by all updates."""


class Spool:
    """The updates of one round in ``folder``, and ``rule``. Weights do not count: all updates are alike.

    It takes some 16 MiB while the round closes, and before that nothing to speak of, however many updates there are
    and however large.
    """

    def __init__(self, specs: Specs, *, rule: Rule, folder: Path) -> None:
        self._rule, self._folder = rule, folder
        starts = accumulate((spec.num_bytes for spec in specs), initial=0)
        self._places = {spec.name: (offset, spec) for spec, offset in zip(specs, starts, strict=False)}
        self._layout, self._num_bytes = Layout(specs), num_bytes_of(specs)
        self._updates: dict[Key, UpdateFile] = {}
        self._open: tuple[Key, UpdateFile] | None = None
        self._weights: list[float] | None = None
        """Of the updates in the order of their keys, once a rule has chosen."""
        self._counted: frozenset[str] = frozenset()
        """The tensors by which a rule chooses."""
        self._passes = Passes(())
        self._unnamed: set[Path] = set()
        weakref.finalize(self, _remove, self._unnamed)

    @property
    def takes_sums(self) -> bool:
        return False

    @property
    def bound(self) -> float:
        return math.fsum(file.largest for file in self._files())

    # -- updates in and out ---------------------------------------------------------------------------------

    def begin_update(self, key: Key) -> None:
        file = UpdateFile.begun(self._folder, self._num_bytes)
        self._unnamed.add(file.path)
        self._open = key, file

    def add(self, offset: int, piece: Buffer, weight: float, *, most: float = math.inf) -> None:
        key, file = self._opened()
        largest = max((_largest(spec, values) for spec, _, values in self._layout.slices(offset, piece)), default=0.0)
        if not largest < most:
            raise UnfitMessage(f"its delta reaches {largest:.3g}; a single update must stay below {most:.3g}")
        self._open = key, file.write(offset, piece, largest)

    def add_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        raise UnfitMessage("this run needs each update by itself, and a partial sum cannot be taken apart")

    def end_update(self) -> None:
        key, file = self._opened()
        self._open = None
        self._updates[key] = file

    def _opened(self) -> tuple[Key, UpdateFile]:
        assert self._open is not None, "no update has begun"
        return self._open

    def remove(self, offset: int, piece: Buffer, weight: float) -> None:
        """Does nothing yet: an update goes as a whole."""

    def remove_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        raise UnfitMessage("there are no partial sums here")

    def end_removal(self, key: Key) -> None:
        file = self._updates.pop(key)
        if file.sha256 is None:  # others are in the last commit
            file.path.unlink(missing_ok=True)
            self._unnamed.discard(file.path)

    # -- on the disk ----------------------------------------------------------------------------------------

    def save(self, directory: StateDirectory, name: str) -> str:
        prefix = "-".join(name.split("-")[:3])
        for key, file in self._updates.items():
            self._updates[key] = file.saved(directory, prefix)
            self._unnamed.discard(file.path)
        listed = [
            [key.base_round, key.worker, file.path.name, file.sha256, file.largest]
            for key, file in sorted(self._updates.items(), key=_order)
        ]
        return directory.write_file(name, json.dumps(listed).encode())

    def load(self, directory: StateDirectory, saved: Accumulated) -> None:
        for base_round, worker, name, sha256, largest in json.loads(directory.read_file(saved.file, saved.sha256)):
            file = UpdateFile(directory.folder / name, largest, sha256)
            file.check(self._num_bytes)
            self._updates[Key(base_round, worker)] = file

    def files(self) -> frozenset[str]:
        return frozenset(file.path.name for file in self._updates.values() if file.sha256 is not None)

    def _files(self) -> list[UpdateFile]:
        """In the order of their keys."""
        return [file for _, file in sorted(self._updates.items(), key=_order)]

    # -- what comes of them ---------------------------------------------------------------------------------

    def add_noise(self, at: NoiseAt) -> None:
        raise ValueError("noise is added to a sum, and this run keeps each update by itself")

    def judge(self, counted: Collection[str]) -> Mapping[Key, Vote]:
        if len(self._updates) < self._rule.fewest:
            raise TooFew(f"a robust rule holds from {self._rule.fewest} updates on, and there are {len(self._updates)}")
        files, keys = self._files(), [key for key, _ in sorted(self._updates.items(), key=_order)]
        self._passes = Passes(files)
        if not isinstance(self._rule, Choosing):
            return {}
        floats = frozenset(name for name, (_, spec) in self._places.items() if spec.is_float)
        self._counted = floats & frozenset(counted) or floats
        choice = self._rule.choose(self._passes.distances(list(self._stretches(self._counted))))
        self._weights = list(choice.weights)
        if isinstance(self._rule, Columnwise):
            self._passes = Passes([file for file, weight in zip(files, choice.weights, strict=True) if weight])
        return {
            key: Vote(score=score, is_outvoted=not weight)
            for key, weight, score in zip(keys, choice.weights, choice.scores, strict=True)
        }

    def _stretches(self, names: Collection[str]) -> Iterator[Stretch]:
        """These tensors, neighbours of one dtype together."""
        last: Stretch | None = None
        for offset, spec in (self._places[name] for name in self._places if name in names):
            if last and last.spec.dtype == spec.dtype and last.offset + last.num * spec.item_bytes == offset:
                last = replace(last, num=last.num + spec.num_elements)
                continue
            if last:
                yield last
            last = Stretch(offset, spec, spec.num_elements)
        if last:
            yield last

    def spans(self, specs: Specs) -> Iterator[Specs]:
        """Groups tensors that follow each other, and that the rule takes in the same way."""
        return spans_of(specs, self._follows)

    def _follows(self, before: TensorSpec, spec: TensorSpec) -> bool:
        if before.name not in self or spec.name not in self:
            return False
        (start, of), (next_start, _) = self._places[before.name], self._places[spec.name]
        return start + of.num_bytes == next_start and (before.name in self._counted) == (spec.name in self._counted)

    def means(
        self, span: Specs, divisor: float, *, start: int = 0, num: int | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        """What the rule makes of a span, block by block; ``divisor`` does not count."""
        offset, spec = self._places[span[0].name]
        whole = sum(each.num_elements for each in span)
        stretch = Stretch(offset, spec, whole).part(start, whole if num is None else start + num)
        for place, values in self._combined(stretch, is_counted=span[0].name in self._counted):
            values += 0.0  # -0.0 and 0.0 are equal to a sort, and which of them comes first is nobody's business
            yield place, values

    def _combined(self, stretch: Stretch, *, is_counted: bool) -> Iterator[tuple[slice, Floats]]:
        if self._weights is not None and is_counted and not isinstance(self._rule, Columnwise):
            yield from self._passes.weighted(stretch, self._weights, math.fsum(self._weights))
            return
        rule = self._rule if isinstance(self._rule, Columnwise) else _OF_ALL
        for place, columns in self._passes.columns(stretch):
            yield place, rule.combine(columns)

    def exactly(self, span: Specs, start: int, num: int) -> None:
        return None

    def forget(self, span: Specs) -> None:
        """Does nothing: none of it is in memory."""

    def __contains__(self, name: str) -> bool:
        return name in self._places


def _order(item: tuple[Key, UpdateFile]) -> tuple[int, str]:
    return item[0].base_round, item[0].worker


def _largest(spec: TensorSpec, values: Floats) -> float:
    """The largest magnitude; an UnfitMessage if a value is not finite."""
    wide = numbers(values, spec)
    largest = max(float(wide.max()), -float(wide.min()))
    if not math.isfinite(largest):
        raise UnfitMessage(f"tensor '{spec.name}' holds NaN or infinity")
    return largest


def _remove(paths: set[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
