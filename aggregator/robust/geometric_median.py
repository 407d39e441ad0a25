"""The geometric median by smoothed Weiszfeld steps: RFA (Pillutla, Kakade & Harchaoui 2019, arXiv 1912.13445, alg. 2).

    z = mean of x_1, ..., x_n
    R times:  b_i = 1 / max(nu, |z - x_i|);  z = sum b_i x_i / sum b_i

Each z is a mean with coefficients c that sum to 1, and its distances follow from those between the updates alone,

    |z - x_i|^2 = sum_j c_j D_ij - 1/2 sum_jk c_j c_k D_jk,

so that the R steps are made on n coefficients, and the updates are read twice in all, however many steps there are.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from aggregator.robust.rule import Choice, Floats


@dataclass(frozen=True, slots=True)
class GeometricMedian:
    """An update's score is its coefficient in the result: far from 1/n down where it is far from the others.

    All updates count, none is outvoted.
    """

    iterations: Annotated[int, Field(ge=1, le=10_000)] = 3
    nu: Annotated[float, Field(gt=0)] = 1e-6
    fewest: ClassVar[int] = 3
    """Of fewer than three, one is no minority."""
    fewest_advised: ClassVar[int] = 3

    def choose(self, distances: Floats) -> Choice:
        coefficients = [1 / len(distances)] * len(distances)
        for _ in range(self.iterations):
            weights = [1 / max(self.nu, distance) for distance in _distances_to_mean(distances, coefficients)]
            total = math.fsum(weights)
            coefficients = [weight / total for weight in weights]
        return Choice(coefficients, coefficients)


def _distances_to_mean(distances: Floats, coefficients: list[float]) -> list[float]:
    """How far each update is from the mean with these coefficients."""
    to_all = [math.fsum(c * d for c, d in zip(coefficients, row, strict=True)) for row in distances.tolist()]
    spread = math.fsum(c * d for c, d in zip(coefficients, to_all, strict=True)) / 2
    return [math.sqrt(max(0.0, d - spread)) for d in to_all]
