"""q-FedAvg: the worse a model fits a site, the more its update counts (Li et al. 2020, arXiv:1905.10497, algorithm 2).

    model <- model + sum_k F_k^q L delta_k / sum_k (q F_k^(q-1) L^2 |delta_k|^2 + L F_k^q)        L = 1 / lr

``F_k`` is the loss of the received model on the site's training data. A factor of L is left out of both sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Annotated, ClassVar

from pydantic import Field

from aggregator.state import FoldedUpdate
from aggregator.weighing.weighting import Claim, Divisors, Weight, total_of, undiscounted
from broker.wire import FigureName

_LEAST_LOSS = 1e-10
"""A smaller loss counts as this one: with q below 1, that of a perfect fit has no power."""
_DIGITS = Context(prec=40)
"""Powers of floats differ in the last bit from machine to machine; those of decimals do not."""


@dataclass(frozen=True, slots=True)
class QFedAvg:
    """``q`` 0 is the uniform mean; the larger it is, the more alike the losses of the sites become."""

    q: Annotated[float, Field(ge=0, le=100)] = 1.0
    needs: ClassVar[tuple[FigureName, ...]] = ("loss_before", "norm")

    def weight(self, claim: Claim, *, num_samples: int, lr: float) -> Weight:
        loss = max(claim.figures["loss_before"], _LEAST_LOSS)
        weight = _power(loss, self.q)
        if self.q == 0:
            return Weight(weight, weight)
        norm = claim.figures["norm"]
        return Weight(weight, weight + self.q * _power(loss, self.q - 1) * norm * norm / lr)

    def divisors(self, folded: Sequence[FoldedUpdate]) -> Divisors:
        return Divisors(total_of(folded), undiscounted(folded))


def _power(base: float, exponent: float) -> float:
    return float(_DIGITS.power(Decimal(base), Decimal(exponent)))
