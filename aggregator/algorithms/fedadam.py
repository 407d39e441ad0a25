"""FedAdam (Reddi et al. 2021, arXiv:2003.00295, algorithm 2, line 15).

v <- beta2 * v + (1 - beta2) * mean^2          the rest is in adaptive.py

v takes the square of the mean. The paper's first version has that of m, a slip that its authors confirmed
(google-research/federated#41).
"""

from dataclasses import dataclass
from typing import ClassVar

from aggregator.algorithms.adaptive import Beta, FirstSquare, Tau, begun, correction_after, direction, first_moment
from aggregator.algorithms.step import Block, RoundFacts, Scalars, StepState


@dataclass(frozen=True, slots=True)
class FedAdam:
    """Remembers m and v for each parameter."""

    beta1: Beta = 0.9
    beta2: Beta = 0.99
    tau: Tau = 1e-3
    v0: FirstSquare = "tau2"
    bias_correction: bool = False
    server_lr: ClassVar[float] = 0.03

    def init(self, num_elements: int) -> StepState:
        return begun(num_elements, tau=self.tau, v0=self.v0)

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        return correction_after(before, beta1=self.beta1, beta2=self.beta2) if self.bias_correction else {}

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        m = first_moment(mean, state, self.beta1)
        v = self.beta2 * state["v"] + (1 - self.beta2) * (mean * mean)
        return direction(m, v, tau=self.tau, scalars=scalars), {"m": m, "v": v}
