"""Federated averaging with server momentum (Hsu, Qi & Brown 2019, arXiv:1909.06335, section 4.3).

v <- momentum * v + mean          model <- model + server_lr * v
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from aggregator.algorithms.step import Block, RoundFacts, Scalars, StepState


@dataclass(frozen=True, slots=True)
class FedAvgM:
    """Remembers one velocity for each parameter."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """What remains of a velocity after a round."""
    server_lr: ClassVar[float] = 1.0

    def init(self, num_elements: int) -> StepState:
        return {"velocity": np.zeros(num_elements)}

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        return {}

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        velocity = self.momentum * state["velocity"] + mean
        return velocity, {"velocity": velocity}
