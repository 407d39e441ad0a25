"""How much a single update may weigh."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WeightLimits:
    """All of it is known before a round's first update arrives."""

    max_samples: int | None = None
    """Samples that count of one update; None: all."""
    max_weight: float | None = None
    """As many times the median number of samples in the round before; None: no limit."""

    @property
    def go_by_median(self) -> bool:
        """Whether ``most_samples`` depends on the median."""
        return self.max_weight is not None

    def most_samples(self, median: int | None) -> int | None:
        """What counts of an update's samples; ``median`` is that of the round before, None in the first one."""
        limits = [] if self.max_samples is None else [self.max_samples]
        if self.max_weight is not None and median is not None:
            limits.append(max(1, math.floor(self.max_weight * median)))
        return min(limits, default=None)
