"""How one round weighs its updates: its rule, and what limits it. A partial aggregator makes the same from the head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aggregator.state import FoldedUpdate
from aggregator.weighing.by_task import ByTask
from aggregator.weighing.fednova import FedNova
from aggregator.weighing.normalized import Normalized
from aggregator.weighing.qfedavg import QFedAvg
from aggregator.weighing.weighting import Claim, Divisors, Samples, Uniform, Weight, Weighting
from broker.wire import FigureName
from console import UnfitMessage, parse_named, text_of_named

WEIGHTINGS: dict[str, type[Any]] = {
    "samples": Samples,
    "uniform": Uniform,
    "fednova": FedNova,
    "qfedavg": QFedAvg,
    "task": ByTask,
    "normalized": Normalized,
}


@dataclass(frozen=True, slots=True)
class Weigher:
    """Pure: the same claim has the same weight at the root and at a partial aggregator.

    With ``clip_norm`` C, an update whose delta is longer than C counts as one of length C: its weight is multiplied by
    min(1, C / norm), and the divisor stays.
    """

    weighting: Weighting = field(default_factory=Samples)
    clip_norm: float | None = None
    """Euclidean, over the trained parameters."""
    most_samples: int | None = None
    """An update with more samples counts like one with just that many; None: all count."""
    lr: float = 1.0
    """The learning rate of the local training."""
    asked: tuple[FigureName, ...] = ()
    """Figures that the server's step goes by."""

    @classmethod
    def parse(cls, text: str) -> "Weigher":
        """From ``NAME`` or ``NAME:key=value,…``, as settings and heads have it. Anything else is a ValueError."""
        return cls(parse_named(text, WEIGHTINGS))

    def __str__(self) -> str:
        """What ``parse`` takes; without what limits it."""
        return text_of_named(self.weighting, WEIGHTINGS)

    @property
    def goes_by_samples(self) -> bool:
        """Whether a limit on the samples that count has an effect."""
        return isinstance(self.weighting, Samples | FedNova | ByTask)

    @property
    def adds_as_it_divides(self) -> bool:
        """Whether the mean is one of the updates as they are, by weights that add up to 1."""
        return not isinstance(self.weighting, FedNova | QFedAvg)

    @property
    def needs(self) -> tuple[FigureName, ...]:
        """The figures that every update has to give."""
        clips: tuple[FigureName, ...] = () if self.clip_norm is None else ("norm",)
        return tuple(dict.fromkeys((*self.weighting.needs, *clips, *self.asked)))

    def weigh(self, claim: Claim) -> Weight:
        """What an update counts for. An UnfitMessage if it does not give a figure that is needed, or a useless one."""
        for name in self.needs:
            if name not in claim.figures:
                raise UnfitMessage(f"it does not give the figure {name}, which this round goes by")
        num_samples = self.counted_samples(claim.num_samples)
        weight = self.weighting.weight(claim, num_samples=num_samples, lr=self.lr)
        if not (0 < weight.weight < math.inf and 0 < weight.base < math.inf):
            raise UnfitMessage(f"its figures make its weight {weight.weight:g}, and {weight.base:g} of the divisor")
        if self.clip_norm is None or claim.figures["norm"] <= self.clip_norm:
            return weight
        return Weight(weight.weight * (self.clip_norm / claim.figures["norm"]), weight.base)

    def counted_samples(self, num_samples: int) -> int:
        """What an update's samples count for."""
        return num_samples if self.most_samples is None else min(num_samples, self.most_samples)

    def divisors(self, folded: Sequence[FoldedUpdate]) -> Divisors:
        return self.weighting.divisors(folded)
