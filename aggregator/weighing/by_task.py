"""The weight that a task chooses for its own update: ``aggregation_weight`` among what its ``train`` returns."""

from collections.abc import Sequence
from dataclasses import dataclass

from aggregator.state import FoldedUpdate
from aggregator.weighing.weighting import Claim, Divisors, Weight, total_of
from broker.wire import FigureName


@dataclass(frozen=True, slots=True)
class ByTask:
    """At most the number of samples: a site cannot weigh more than it could anyway."""

    @property
    def needs(self) -> tuple[FigureName, ...]:
        return ("aggregation_weight",)

    def weight(self, claim: Claim, *, num_samples: int, lr: float) -> Weight:
        weight = min(claim.figures["aggregation_weight"], float(num_samples))
        return Weight(weight, weight)

    def divisors(self, folded: Sequence[FoldedUpdate]) -> Divisors:
        return Divisors.alike(total_of(folded))
