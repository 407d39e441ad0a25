"""Federated averaging (McMahan et al. 2017, arXiv:1602.05629, algorithm 1): the direction is the mean itself."""

from dataclasses import dataclass
from typing import ClassVar

from aggregator.algorithms.step import Block, RoundFacts, Scalars, StepState


@dataclass(frozen=True, slots=True)
class FedAvg:
    """Remembers nothing."""

    server_lr: ClassVar[float] = 1.0

    def init(self, num_elements: int) -> StepState:
        return {}

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        return {}

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        return mean, state
