"""FedDyn at the server (Acar et al. 2021, arXiv:2111.04263, algorithm 1).

    moved <- moved + sum_{i in S}(delta_i)          model <- model + mean(delta_i) + moved / N

``moved`` is the sum of all deltas that ever counted. Minus alpha times it is the sum of all workers' g_i, which follow
from their deltas: nothing more travels, and both ends have the same to the last bit, since they add on the grid of the
exact sum. N are the workers that ever counted since all began at zero; so a worker that is new brings its share of 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator.algorithms import Block, RoundFacts, Scalars, StepState
from broker.states import OnGrid

MOVED_SUM, MOVED_REST = "moved_sum", "moved_rest"
"""In float64, and what that lacks."""


@dataclass(frozen=True, slots=True)
class FedDynStep:
    """Remembers the sum of all deltas."""

    alpha: float
    server_lr: ClassVar[float] = 1.0

    def init(self, num_elements: int) -> StepState:
        return {MOVED_SUM: np.zeros(num_elements), MOVED_REST: np.zeros(num_elements)}

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        return {"population": 0.0 if facts.begins_anew else float(facts.population)}

    def add(self, total: OnGrid, state: StepState, scalars: Scalars) -> StepState:
        if not scalars["population"]:
            return self.init(len(total.high))
        nearest, rest = OnGrid.of(state[MOVED_SUM], state[MOVED_REST]).plus(total).floats()
        return {MOVED_SUM: nearest, MOVED_REST: rest}

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        population = scalars["population"]
        return (mean + state[MOVED_SUM] / population if population else mean), state
