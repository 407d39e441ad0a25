"""Bulyan (El Mhamdi, Guerraoui & Rouault 2018, arXiv 1802.07927, section 4).

    1. theta = n - 2f times: take the update that Krum chooses among those not yet taken
    2. out_j = mean of the theta - 2f of their values that are nearest to the median of their values

It holds against f of n >= 4f + 3 false updates, and bounds what they do to any single coordinate, as Krum does not.
Near the end Krum has fewer than n - f - 2 others to look at; it then looks at the nearest one. Of two values that are
equally near to the median the smaller one counts.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from aggregator.robust.krum import krum_scores, multi_krum
from aggregator.robust.median import Median
from aggregator.robust.rule import Choice, Columns, Floats


@dataclass(frozen=True, slots=True)
class Bulyan:
    """An update's score is its Krum score among all."""

    f: Annotated[int, Field(ge=0, le=100_000)] = 1

    @property
    def fewest(self) -> int:
        return 4 * self.f + 3

    @property
    def fewest_advised(self) -> int:
        return self.fewest

    def choose(self, distances: Floats) -> Choice:
        num = len(distances)
        left = list(range(num))
        for _ in range(num - 2 * self.f):
            (best,) = multi_krum(krum_scores(distances[np.ix_(left, left)], self.f), 1)
            del left[best]
        return Choice([0.0 if index in left else 1.0 for index in range(num)], krum_scores(distances, self.f))

    def combine(self, columns: Columns) -> Floats:
        """``columns`` are those of the chosen updates: the nearest values are neighbours, ``first`` is the lowest."""
        theta, num_far = len(columns), 2 * self.f
        beta, median = theta - num_far, Median().combine(columns)
        first = np.zeros(columns.shape[1], np.int64)
        for low in range(num_far):  # from here on if the next value above is nearer than the lowest
            first += columns[low + beta] - median < median - columns[low]
        total = np.zeros(columns.shape[1])
        for index, row in enumerate(columns):
            np.add(total, row, out=total, where=(first <= index) & (index < first + beta))
        total /= beta
        return total
