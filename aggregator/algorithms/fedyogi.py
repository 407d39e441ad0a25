"""FedYogi (Reddi et al. 2021, arXiv:2003.00295, algorithm 2, line 14).

v <- v - (1 - beta2) * mean^2 * sign(v - mean^2)          the rest is in adaptive.py
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator.algorithms.adaptive import Adaptive, direction, first_moment
from aggregator.algorithms.step import Block, Scalars, StepState


@dataclass(frozen=True, slots=True)
class FedYogi(Adaptive):
    """Remembers m and v for each parameter."""

    server_lr: ClassVar[float] = 0.01

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        m, square = first_moment(mean, state, self.beta1), mean * mean
        v = state["v"] - (1 - self.beta2) * square * np.sign(state["v"] - square)
        return direction(m, v, tau=self.tau, scalars=scalars), {"m": m, "v": v}
