"""What the updates of an open round are added to, as the commit rule and the next model need it.

There are ``ExactSum``, and ``aggregator/spool``, which keeps the updates themselves for rules that need each one.
Another could sum them in another ring; ``open_round.py`` and ``next_model.py`` know only this Protocol.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.state import Accumulated, StateDirectory, Vote
from broker.states import OnGrid
from broker.wire import Buffer, Specs, TensorSpec

Floats = NDArray[np.float64]


NoiseAt = Callable[[int, int], NDArray[np.int64]]
"""``(start, count)`` -> the noise of so many elements, counted through all tensors, in steps of 2^-32."""


@dataclass(frozen=True, slots=True)
class Key:
    """Identifies an update, which counts once within a run."""

    base_round: int
    """The round from whose model it was trained."""
    worker: str


class TooFew(Exception):
    """There are fewer updates than a robust rule needs. The text says how many it needs."""


class Accumulator(Protocol):
    """Takes updates in pieces and gives their weighted mean; the order of the updates changes no bit of it.

    An update can be taken out again, added since the last commit or before: then it is as if it had never been in.
    """

    @property
    def takes_sums(self) -> bool:
        """Whether sums of several updates can be added, as partial aggregators send them."""

    @property
    def bound(self) -> float:
        """The sum of |weight * delta| is at most this, for every parameter; inf if it is not tracked."""

    def begin_update(self, key: Key) -> None:
        """Announces whose update the next pieces belong to."""

    def add(self, offset: int, piece: Buffer, weight: float, *, most: float = math.inf) -> None:
        """Adds ``weight`` times a piece of an update's payload that begins at byte ``offset``.

        A piece begins at a multiple of 8 bytes and ends at one, or at the end of the payload. An UnfitMessage if it
        holds NaN or infinity, if |weight * delta| reaches ``most``, or if it cannot be added for another reason; then
        nothing of this piece was added.
        """

    def add_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        """Adds a piece of a partial sum, if ``takes_sums``."""

    def end_update(self) -> None:
        """Announces that all pieces of one update, or of one partial sum, have been added."""

    def remove(self, offset: int, piece: Buffer, weight: float) -> None:
        """Takes out a piece of an update that is in, with the weight that it was added with."""

    def remove_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        """Takes out a piece of a partial sum that is in, if ``takes_sums``."""

    def end_removal(self, key: Key) -> None:
        """Announces that all pieces that were in of this update, or of this partial sum, have been removed."""

    def save(self, directory: StateDirectory, name: str) -> str:
        """Writes everything added so far durably under this name; returns the digest for ``load``."""

    def load(self, directory: StateDirectory, saved: Accumulated) -> None:
        """Fills a new accumulator with what was saved. A DamagedFile if the file is not what was saved."""

    def files(self) -> frozenset[str]:
        """The files in the state directory that it still needs, besides the one saved last."""

    def add_noise(self, at: NoiseAt) -> None:
        """Adds noise to the sum, once, after the last update.

        A ValueError from an accumulator that no run has whose aggregator adds noise.
        """

    def judge(self, counted: Collection[str]) -> Mapping[Key, Vote]:
        """Called once when all updates are in, before ``spans`` and ``means``: those that get a score, or none.

        Where updates are compared as a whole, they are by the tensors of the names ``counted``. TooFew if there are too
        few to compare.
        """

    def spans(self, specs: Specs) -> Iterator[Specs]:
        """The tensors of a model with these specs, in order, grouped into spans that ``means`` takes at once."""

    def means(
        self, span: Specs, divisor: float, *, start: int = 0, num: int | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        """A span's sum divided by ``divisor``, flat, block by block: ``num`` elements (None: all) from ``start`` on.

        The slices count from ``start``. The caller may change a block, which is valid until the next one.
        """

    def exactly(self, span: Specs, start: int, num: int) -> OnGrid | None:
        """The same elements of the sum as they are, without dividing or rounding; None where they are not added so."""

    def forget(self, span: Specs) -> None:
        """The span's means will not be requested again."""

    def __contains__(self, name: str) -> bool:
        """Whether updates have this tensor."""


NewAccumulator = Callable[[Specs], Accumulator]
"""Makes an empty accumulator for updates with these specs."""


def spans_of(specs: Specs, follows: Callable[[TensorSpec, TensorSpec], bool]) -> Iterator[Specs]:
    """Groups neighbours of one dtype, as long as each ``follows`` the one before it where they are added up."""
    span: list[TensorSpec] = []
    for spec in specs:
        if span and (spec.dtype != span[-1].dtype or not follows(span[-1], spec)):
            yield tuple(span)
            span.clear()
        span.append(spec)
    if span:
        yield tuple(span)
