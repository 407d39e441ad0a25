"""How one round weighs its updates: its rule, and what limits it. A partial aggregator makes the same from the head."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aggregator.state import FoldedUpdate
from aggregator.weighing.weighting import Claim, Divisors, Samples, Uniform, Weight, Weighting
from broker.wire import FigureName
from console import UnfitMessage, parse_named, text_of_named

WEIGHTINGS: dict[str, type[Any]] = {"samples": Samples, "uniform": Uniform}


@dataclass(frozen=True, slots=True)
class Weigher:
    """Pure: the same claim has the same weight at the root and at a partial aggregator."""

    weighting: Weighting = field(default_factory=Samples)
    most_samples: int | None = None
    """An update with more samples counts like one with just that many; None: all count."""

    @classmethod
    def parse(cls, text: str) -> "Weigher":
        """From ``NAME`` or ``NAME:key=value,…``, as settings and heads have it. Anything else is a ValueError."""
        return cls(parse_named(text, WEIGHTINGS))

    def __str__(self) -> str:
        """What ``parse`` takes; without the limit."""
        return text_of_named(self.weighting, WEIGHTINGS)

    @property
    def needs(self) -> tuple[FigureName, ...]:
        """The figures that every update has to give."""
        return self.weighting.needs

    def weigh(self, claim: Claim) -> Weight:
        """What an update counts for. An UnfitMessage if it does not give a figure that is needed."""
        for name in self.needs:
            if name not in claim.figures:
                raise UnfitMessage(f"it does not give the figure {name}, which --weighting {self} needs")
        return self.weighting.weight(claim, num_samples=self.counted_samples(claim.num_samples))

    def counted_samples(self, num_samples: int) -> int:
        """What an update's samples count for."""
        return num_samples if self.most_samples is None else min(num_samples, self.most_samples)

    def divisors(self, folded: Sequence[FoldedUpdate]) -> Divisors:
        return self.weighting.divisors(folded)
