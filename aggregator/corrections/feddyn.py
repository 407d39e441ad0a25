"""FedDyn at the server (Acar et al. 2021, arXiv:2111.04263, algorithm 1).

    sum <- sum - alpha * sum_{i in S}(delta_i)          model <- model + mean(delta_i) - sum / (N * alpha)

``sum`` is that of all workers' g_i, which follow from their deltas: nothing more travels. N are the workers that ever
counted since all began at zero; so a worker that is new brings its share of 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator.algorithms import Block, RoundFacts, Scalars, StepState

GRADIENT_SUM = "gradient_sum"


@dataclass(frozen=True, slots=True)
class FedDynStep:
    """Remembers the sum of all workers' linear terms."""

    alpha: float
    server_lr: ClassVar[float] = 1.0

    def init(self, num_elements: int) -> StepState:
        return {GRADIENT_SUM: np.zeros(num_elements)}

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        return {
            "population": 0.0 if facts.begins_anew else float(facts.population),
            "num_updates": float(len(facts.folded)),
        }

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        population = scalars["population"]
        if not population:
            return mean, {GRADIENT_SUM: np.zeros_like(mean)}
        total = state[GRADIENT_SUM] - self.alpha * scalars["num_updates"] * mean
        return mean - total / (population * self.alpha), {GRADIENT_SUM: total}
