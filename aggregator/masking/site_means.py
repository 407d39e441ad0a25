"""What the sites say of themselves, as the sum of masked updates has it: weighted means, and nothing of one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from broker.wire import DifferentialPrivacy, Masking


@dataclass(frozen=True, slots=True)
class SiteMeans:
    """Of all updates of a round together."""

    weight: float
    """The sum of all weights: what the sum of the deltas is divided by."""
    metrics: dict[str, float]
    """Means over those that have the metric, weighted like their updates."""
    within: float | None = None
    """The sum of b - 1/2, where b is 1 for an update within the clip, with its noise; None if the clip is fixed."""

    @classmethod
    def of(cls, extras: Sequence[float], masking: Masking, privacy: DifferentialPrivacy | None = None) -> "SiteMeans":
        """From the sums, in the order in which ``Masking`` has them."""
        weight, rest = float(extras[0]), [float(value) for value in extras[1:]]
        pairs = zip(masking.metrics, rest[0::2], rest[1::2], strict=False)
        metrics = {name: total / of for name, of, total in pairs if of > 0 and math.isfinite(total)}
        is_adaptive = privacy is not None and privacy.quantile is not None
        return cls(weight, metrics, rest[2 * len(masking.metrics)] if is_adaptive else None)
