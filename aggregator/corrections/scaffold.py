"""SCAFFOLD at the server (Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II).

The mean is mean_i(delta_i / a_i) * mean_i(a_i), which is that of the deltas where all took the same steps; a_i is the
sum of the factors of a worker's gradients (its steps, in plain SGD). What a worker adds to its control variate,

    c_i <- c_i - c - delta_i / (lr * a_i)

follows from its delta, so nothing more travels: the server keeps the sum of all control variates,

    sum <- sum - |S| * c - sum_{i in S}(delta_i / a_i) / lr          c = sum / N in float32, as it was broadcast

with N the workers that ever counted since all began at zero. That a worker is new changes nothing: its c_i is 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator.algorithms import Block, RoundFacts, Scalars, StepState
from aggregator.corrections.control import CONTROL_SUM, broadcast


@dataclass(frozen=True, slots=True)
class ScaffoldStep:
    """Remembers the sum of all workers' control variates."""

    server_lr: ClassVar[float] = 1.0

    def init(self, num_elements: int) -> StepState:
        return {CONTROL_SUM: np.zeros(num_elements)}

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        return {
            "population_before": before.get("population", 0.0),
            "population": 0.0 if facts.begins_anew else float(facts.population),
            "num_updates": float(len(facts.folded)),
            "divisor": facts.divisor,
            "lr": facts.local.lr,
        }

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        if not scalars["population"]:
            return mean, {CONTROL_SUM: np.zeros_like(mean)}
        control = broadcast(state[CONTROL_SUM], scalars["population_before"]).astype(np.float64)
        drift = mean * scalars["divisor"] / scalars["lr"]
        return mean, {CONTROL_SUM: state[CONTROL_SUM] - scalars["num_updates"] * control - drift}
