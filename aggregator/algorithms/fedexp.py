"""FedExP, a step size from how far apart the updates are (Jhunjhunwala, Wang & Joshi 2023, arXiv:2301.09604, eq. 8).

factor = max(1, sum_k p_k |delta_k|^2 / (2 (|mean|^2 + eps)))          model <- model + server_lr * factor * mean

p_k are the weights of the mean. |delta_k| is what the update says of itself, so that its bits do not depend on how its
body was cut on the way here. The paper's last model is the mean of the last two, which is left to who takes them.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from aggregator.algorithms.step import Block, RoundFacts, Scalars, StepState
from aggregator.state import FoldedUpdate
from broker.wire import FigureName


@dataclass(frozen=True, slots=True)
class FedExP:
    """Remembers nothing, and takes one pass more over the sum. A stale update counts as far as it is added."""

    eps: Annotated[float, Field(ge=0, le=1e6)] = 1e-3
    server_lr: ClassVar[float] = 1.0
    needs: ClassVar[tuple[FigureName, ...]] = ("norm",)

    def init(self, num_elements: int) -> StepState:
        return {}

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        norms = (
            (each, each.weight / each.base_weight * _norm_of(each)) for each in facts.folded if each.base_weight > 0
        )
        squares = math.fsum(each.base_weight * (norm * norm) for each, norm in norms)
        mean_norm = facts.mean_norm()
        below = 2 * (mean_norm * mean_norm + self.eps)
        return {"factor": max(1.0, squares / facts.divisor / below) if below > 0 else 1.0}

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        return mean * scalars["factor"], state


def _norm_of(update: FoldedUpdate) -> float:
    """What it says; of one that was not asked, since it was folded before the run went on with FedExP: as measured."""
    return update.figures.get("norm", update.norm or 0.0)
