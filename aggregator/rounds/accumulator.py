"""What the updates of an open round are added to, as the commit rule and the next model need it.

``ExactSum`` is the one that fedmq has. Another may keep the updates themselves (for rules that need each of them), or
add them up in another ring; ``aggregator/rounds/open_round.py`` and ``next_model.py`` know this Protocol alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.state import Accumulated, StateDirectory
from broker.wire import Buffer, Specs

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Key:
    """Whose update: it counts once within a run."""

    base_round: int
    """The round whose model it was trained from."""
    worker: str


class Accumulator(Protocol):
    """Takes updates in pieces, in any order of updates, and gives their weighted mean; the order changes no bit of it.

    After an UnfitMessage in the middle of an update, half of it may be in: then it is made anew from the last commit.
    """

    @property
    def takes_sums(self) -> bool:
        """Whether sums of several updates can be added, as partial aggregators send them."""

    @property
    def bound(self) -> float:
        """The sum of |weight * delta| is at most this, for every parameter; inf if nobody counts."""

    def begin_update(self, key: Key) -> None:
        """Says whose update the next pieces are of."""

    def add(self, offset: int, piece: Buffer, weight: float) -> None:
        """Adds ``weight`` times a piece of an update's payload that begins at byte ``offset``.

        A piece begins at a multiple of 8 bytes and ends at one, or at the end of the payload. One that holds NaN or
        infinity, or cannot be added for another reason, is an UnfitMessage.
        """

    def add_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        """Adds a piece of a partial sum, where ``takes_sums``."""

    def end_update(self) -> None:
        """Says that all pieces of one update, or of one partial sum, were added."""

    def save(self, directory: StateDirectory, name: str) -> str:
        """Has all that was added on the disk when it returns, under this name; returns the digest for ``load``."""

    def load(self, directory: StateDirectory, saved: Accumulated) -> None:
        """Makes a new one what was saved. A DamagedFile if that is not what lies there."""

    def files(self) -> frozenset[str]:
        """What it has in the state directory beside the file that was saved, and still needs."""

    def spans(self, specs: Specs) -> Iterator[Specs]:
        """The tensors of a model with these specs, in order, those together that ``means`` can take together."""

    def means(
        self, span: Specs, total: int, *, start: int = 0, num: int | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        """The sum over ``total`` of a span, flat, block by block; of ``num`` elements from ``start`` on (None: all).

        The slices count from ``start``. A block is the caller's to change, and gone with the next.
        """

    def forget(self, span: Specs) -> None:
        """The span's means are no longer asked for."""

    def __contains__(self, name: str) -> bool:
        """Whether updates have this tensor."""


NewAccumulator = Callable[[Specs], Accumulator]
"""An empty one, for updates with these specs."""
