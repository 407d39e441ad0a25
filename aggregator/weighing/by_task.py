"""The weight that a task chooses for its own update: ``aggregation_weight`` among what its ``train`` returns."""

from dataclasses import dataclass
from typing import ClassVar

from aggregator.weighing.weighting import Claim, Summed, Weight
from broker.wire import FigureName


@dataclass(frozen=True, slots=True)
class ByTask(Summed):
    """At most the number of samples: a site cannot weigh more than it could anyway."""

    needs: ClassVar[tuple[FigureName, ...]] = ("aggregation_weight",)

    def weight(self, claim: Claim, *, num_samples: int, lr: float) -> Weight:
        weight = min(claim.figures["aggregation_weight"], float(num_samples))
        return Weight(weight, weight)
