"""All alike, each by what it moved in a step: FedNova's normalization (Wang et al. 2020, arXiv:2007.07481) without
samples, which is what SCAFFOLD's control variates need where workers take different numbers of steps.

    mean = mean_i(a_i) * mean_i(delta_i / a_i)          a_i = ``update_norm1``, the sum of the factors of its gradients

The weights are 1 / (lr * a_i), so that what is summed up is what workers add to their control variates, to the last bit
(broker/states/grid.py). Buffers have the same weights, and are divided by their sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aggregator.state import FoldedUpdate
from aggregator.weighing.weighting import Claim, Divisors, Weight, total_of
from broker import scaffold_weight
from broker.wire import FigureName
from console import UnfitMessage


@dataclass(frozen=True, slots=True)
class Normalized:
    """Needs the figure ``update_norm1`` of each update."""

    needs: ClassVar[tuple[FigureName, ...]] = ("update_norm1",)

    def weight(self, claim: Claim, *, num_samples: int, lr: float) -> Weight:
        norm1 = claim.figures["update_norm1"]
        if not 2.0**-30 <= norm1 <= 2.0**40:
            raise UnfitMessage(f"its update_norm1 is {norm1:g}, which no training has")
        weight = scaffold_weight(norm1, lr)
        return Weight(weight, weight)

    def divisors(self, folded: Sequence[FoldedUpdate]) -> Divisors:
        num = len(folded)
        mean_step = math.fsum(1.0 / update.base_weight for update in folded) / num
        return Divisors(num / mean_step, total_of(folded))
