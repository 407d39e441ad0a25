"""FedAdagrad (Reddi et al. 2021, arXiv:2003.00295, algorithm 2, line 13).

v <- v + mean^2          the rest is in adaptive.py

beta1 is 0, as in the paper's experiments. There is no beta2: v never forgets, and has no bias to correct.
"""

from dataclasses import dataclass
from typing import ClassVar

from aggregator.algorithms.adaptive import Beta, FirstSquare, Tau, begun, correction_after, direction, first_moment
from aggregator.algorithms.step import Block, RoundFacts, Scalars, StepState


@dataclass(frozen=True, slots=True)
class FedAdagrad:
    """Remembers m and v for each parameter."""

    beta1: Beta = 0.0
    tau: Tau = 1e-3
    v0: FirstSquare = "tau2"
    bias_correction: bool = False
    server_lr: ClassVar[float] = 0.1

    def init(self, num_elements: int) -> StepState:
        return begun(num_elements, tau=self.tau, v0=self.v0)

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        return correction_after(before, beta1=self.beta1) if self.bias_correction else {}

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        m, v = first_moment(mean, state, self.beta1), state["v"] + mean * mean
        return direction(m, v, tau=self.tau, scalars=scalars), {"m": m, "v": v}
