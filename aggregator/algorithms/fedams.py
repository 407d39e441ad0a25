"""FedAMS in its form with tau beside the root (Wang, Lin & Chen 2022, arXiv:2205.02719, algorithm 1, option 2).

v <- beta2 * v + (1 - beta2) * mean^2          v_max <- max(v_max, v)          v_max takes v's place under the root

The rest is in adaptive.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator.algorithms.adaptive import Adaptive, begun, direction, first_moment
from aggregator.algorithms.step import Block, Scalars, StepState


@dataclass(frozen=True, slots=True)
class FedAMS(Adaptive):
    """Remembers m, v and the largest v for each parameter."""

    server_lr: ClassVar[float] = 0.03

    def init(self, num_elements: int) -> StepState:
        state = begun(num_elements, tau=self.tau, v0=self.v0)
        return {**state, "v_max": state["v"].copy()}

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        m = first_moment(mean, state, self.beta1)
        v = self.beta2 * state["v"] + (1 - self.beta2) * (mean * mean)
        v_max = np.maximum(state["v_max"], v)
        return direction(m, v_max, tau=self.tau, scalars=scalars), {"m": m, "v": v, "v_max": v_max}
