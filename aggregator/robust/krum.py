"""Krum and multi-Krum (Blanchard, El Mhamdi, Guerraoui & Stainer 2017, "Machine Learning with Adversaries").

    score_i = sum of the n - f - 2 smallest squared distances of x_i to others
    out     = mean of the m updates with the smallest scores;  m = 1 is Krum

It holds against f of n >= 2f + 3 false updates. Among equal scores the update that comes first is chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from aggregator.robust.rule import Choice, Floats


@dataclass(frozen=True, slots=True)
class Krum:
    """An update's score is its Krum score: the smaller, the nearer it is to others."""

    f: Annotated[int, Field(ge=0, le=100_000)] = 1
    m: Annotated[int, Field(ge=1, le=100_000)] = 1

    @property
    def fewest(self) -> int:
        """n >= 2f + 3, and m <= n - f, or a false update would have to be among the m."""
        return max(2 * self.f + 3, self.m + self.f)

    @property
    def fewest_advised(self) -> int:
        return max(4 * self.f + 3, self.fewest)

    def choose(self, distances: Floats) -> Choice:
        scores = krum_scores(distances, self.f)
        chosen = set(multi_krum(scores, self.m))
        return Choice([1.0 if index in chosen else 0.0 for index in range(len(scores))], scores)


def multi_krum(scores: Sequence[float], m: int) -> list[int]:
    """The m updates with the smallest scores, the best first."""
    return sorted(range(len(scores)), key=lambda index: (scores[index], index))[:m]


def krum_scores(distances: Floats, f: int) -> list[float]:
    """The Krum score of each update."""
    num_nearest = max(1, len(distances) - f - 2)
    return [
        math.fsum(np.sort(np.delete(row, index), kind="stable")[:num_nearest].tolist())
        for index, row in enumerate(distances)
    ]
