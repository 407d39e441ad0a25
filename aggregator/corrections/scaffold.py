"""SCAFFOLD at the server (Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II).

The mean is mean_i(delta_i / a_i) * mean_i(a_i), which is that of the deltas where all took the same steps; a_i is the
sum of the factors of a worker's gradients (its steps, in plain SGD). What a worker adds to its control variate,

    c_i <- c_i - c - delta_i / (lr * a_i)

follows from its delta, so nothing more travels: the server keeps the sum of all control variates,

    sum <- sum - |S| * c - sum_{i in S}(delta_i / (lr * a_i))          c = sum / N in float32, as it was broadcast

with N the workers that ever counted since all began at zero. That a worker is new changes nothing: its c_i is 0. Both
ends reckon on the grid of the exact sum, so the sum is that of all c_i to the last bit, however they came.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator.algorithms import Block, RoundFacts, Scalars, StepState
from aggregator.corrections.control import CONTROL_REST, CONTROL_SUM, broadcast
from broker.states import OnGrid


@dataclass(frozen=True, slots=True)
class ScaffoldStep:
    """Remembers the sum of all workers' control variates."""

    server_lr: ClassVar[float] = 1.0

    def init(self, num_elements: int) -> StepState:
        return {CONTROL_SUM: np.zeros(num_elements), CONTROL_REST: np.zeros(num_elements)}

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        return {
            "population_before": before.get("population", 0.0),
            "population": 0.0 if facts.begins_anew else float(facts.population),
            "num_updates": float(len(facts.folded)),
        }

    def add(self, total: OnGrid, state: StepState, scalars: Scalars) -> StepState:
        if not scalars["population"]:
            return self.init(len(total.high))
        control = OnGrid.rounded(broadcast(state[CONTROL_SUM], scalars["population_before"]))
        before = OnGrid.of(state[CONTROL_SUM], state[CONTROL_REST])
        nearest, rest = before.plus(control, -int(scalars["num_updates"])).plus(total, -1).floats()
        return {CONTROL_SUM: nearest, CONTROL_REST: rest}

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        return mean, state
