"""FedNova: sites that do different numbers of local steps count as if they did the same (Wang et al. 2020,
arXiv:2007.07481, equations 8 and 9).

    mean = tau_eff * sum_k p_k delta_k / a_k        p_k = n_k / sum n, tau_eff = sum_k p_k a_k

``a_k`` is the sum of the factors with which the gradients of a local training are in its delta: the number of steps for
plain SGD, more with momentum, less with a proximal term.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aggregator.state import FoldedUpdate
from aggregator.weighing.weighting import Claim, Divisors, Weight, total_of, undiscounted
from broker.wire import FigureName
from console import UnfitMessage


@dataclass(frozen=True, slots=True)
class FedNova:
    """Weighs by samples over ``update_norm1``."""

    needs: ClassVar[tuple[FigureName, ...]] = ("update_norm1",)

    def weight(self, claim: Claim, *, num_samples: int, lr: float) -> Weight:
        norm1 = claim.figures["update_norm1"]
        if norm1 == 0:
            raise UnfitMessage("its update_norm1 is 0: no gradient is in its update")
        return Weight(num_samples / norm1, float(num_samples))

    def divisors(self, folded: Sequence[FoldedUpdate]) -> Divisors:
        num_samples = total_of(folded)
        local = math.fsum(update.base_weight * update.figures["update_norm1"] for update in folded)
        return Divisors(num_samples * num_samples / local, undiscounted(folded))
