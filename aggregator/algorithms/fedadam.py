"""FedAdam (Reddi et al. 2021, arXiv:2003.00295, algorithm 2, line 15).

v <- beta2 * v + (1 - beta2) * mean^2          the rest is in adaptive.py

v takes the square of the mean. The paper's first version has that of m, a slip that its authors confirmed
(google-research/federated#41).
"""

from dataclasses import dataclass
from typing import ClassVar

from aggregator.algorithms.adaptive import Adaptive, direction, first_moment
from aggregator.algorithms.step import Block, Scalars, StepState


@dataclass(frozen=True, slots=True)
class FedAdam(Adaptive):
    """Remembers m and v for each parameter."""

    server_lr: ClassVar[float] = 0.03

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        m = first_moment(mean, state, self.beta1)
        v = self.beta2 * state["v"] + (1 - self.beta2) * (mean * mean)
        return direction(m, v, tau=self.tau, scalars=scalars), {"m": m, "v": v}
