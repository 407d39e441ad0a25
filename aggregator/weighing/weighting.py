"""How much each update counts in a round's mean.

    mean = sum_k(weight_k * discount_k * delta_k) / divisor

The weight is a function of what the update says of itself; the divisor is one of all that is recorded of the updates
that count, so neither depends on the order in which they came. Sums of floats are those of ``math.fsum``, which rounds
once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from aggregator.state import FoldedUpdate
from broker.wire import FigureName, Folded, UpdateHead

Claim = UpdateHead | Folded
"""What a message says about one update: its worker, the worker's instance, the number of samples, its figures."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What an update counts for."""

    weight: float
    """Its delta is multiplied by this, and by the discount for staleness."""
    base: float
    """Its part of the divisor."""


@dataclass(frozen=True, slots=True)
class Divisors:
    """What the weighted sum of a round's updates is divided by."""

    stepped: float
    """Of the parameters that the server's step moves."""
    others: float
    """Of buffers and integers: with it, their weights add up to at most 1, and a variance stays one."""

    @classmethod
    def alike(cls, divisor: float) -> "Divisors":
        return cls(divisor, divisor)


class Weighting(Protocol):
    """One rule, with its parameters."""

    @property
    def needs(self) -> tuple[FigureName, ...]:
        """What each update has to say of itself, besides its number of samples."""

    def weight(self, claim: Claim, *, num_samples: int, lr: float) -> Weight:
        """Of an update that has said what is needed; ``num_samples`` is what its samples count for, after limits.

        ``lr`` is the learning rate of the local training. An UnfitMessage if what it says cannot be weighed.
        """

    def divisors(self, folded: Sequence[FoldedUpdate]) -> Divisors:
        """Of all updates that count, at least one."""


def total_of(folded: Sequence[FoldedUpdate]) -> float:
    """The sum of the base weights."""
    return math.fsum(update.base_weight for update in folded)


def undiscounted(folded: Sequence[FoldedUpdate]) -> float:
    """The sum of the weights before the discounts for staleness."""
    return math.fsum(update.weight / discount(update.staleness) for update in folded)


def discount(staleness: int) -> float:
    """The factor on the weight of an update with this staleness (FedBuff: Nguyen et al. 2022, section 5)."""
    return 1.0 if staleness == 0 else 1.0 / math.sqrt(1 + staleness)


class Summed:
    """What those rules have alike whose divisor is the sum of the base weights, for all tensors."""

    __slots__ = ()

    def divisors(self, folded: Sequence[FoldedUpdate]) -> Divisors:
        return Divisors.alike(total_of(folded))


@dataclass(frozen=True, slots=True)
class Samples(Summed):
    """By the number of samples (McMahan et al. 2017, algorithm 1)."""

    needs: ClassVar[tuple[FigureName, ...]] = ()

    def weight(self, claim: Claim, *, num_samples: int, lr: float) -> Weight:
        return Weight(float(num_samples), float(num_samples))


@dataclass(frozen=True, slots=True)
class Uniform(Summed):
    """All alike."""

    needs: ClassVar[tuple[FigureName, ...]] = ()

    def weight(self, claim: Claim, *, num_samples: int, lr: float) -> Weight:
        return Weight(1.0, 1.0)
