"""What a robust rule is: it looks at the updates coordinate by coordinate, at how far apart they are, or at both.

A rule that only looks at coordinates leaves no update out as a whole. One that looks at distances chooses: each update
gets a score and a weight. If it looks at both, it goes through the coordinates of the updates that it chose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Columns = NDArray[Any]
"""A row for each update and a column for each coordinate, in numbers of any kind; each column is sorted."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What became of the updates, in the order in which they were given."""

    weights: Sequence[float]
    """The mean is the sum of weight times update, divided by the sum of the weights; 0: outvoted."""
    scores: Sequence[float]
    """By what it was chosen; what a score means, the rule says."""


class Rule(Protocol):
    """A robust rule with its numbers; it treats all updates alike."""

    @property
    def fewest(self) -> int:
        """The fewest updates that it takes: with fewer its guarantee does not hold."""

    @property
    def fewest_advised(self) -> int:
        """With fewer than these it holds, but leaves out much where updates differ for good reasons."""


@runtime_checkable
class Columnwise(Rule, Protocol):
    """Decides each coordinate by itself."""

    def combine(self, columns: Columns) -> Floats:
        """One number for each column, the same whatever other columns there are."""


@runtime_checkable
class Choosing(Rule, Protocol):
    """Decides by how far apart the updates are."""

    def choose(self, distances: Floats) -> Choice:
        """``distances`` are the squared ones between any two updates: symmetric, 0 on the diagonal, finite.

        Of updates with equal scores those that come first are preferred, so the caller sorts them by worker.
        """
