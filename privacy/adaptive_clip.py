"""A clip that follows the workers' norms, privately (Andrew, Thakkar, McMahan & Ramaswamy 2021, algorithm 1).

Besides its update each worker sends b - 1/2, where b is 1 if its update was within the clip and 0 if it was clipped.
The sum of these has noise of its own, with standard deviation sigma_b, and moves the clip towards the quantile of norms
that is asked for. One worker changes that sum by 1/2, so it costs what a noise multiplier of 2 sigma_b does; the
update's noise is raised by as much as keeps the whole round at the cost of ``noise`` (theorem 1):

    z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2)
"""

import math
from dataclasses import dataclass

_WORKERS_A_SIGMA = 20
"""sigma_b is the number of workers over this, as the paper has it in all its experiments."""
_LEAST_CLIP, _MOST_CLIP = 1e-9, 1e9
_TERMS = 24


@dataclass(frozen=True, slots=True)
class AdaptiveClip:
    """``quantile`` is the share of updates that shall not be clipped, ``start`` the clip of the first round."""

    quantile: float = 0.5
    start: float = 0.1
    rate: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile must be from 0 to 1, not {self.quantile:g}")
        if not _LEAST_CLIP <= self.start <= _MOST_CLIP:
            raise ValueError(f"start must be from {_LEAST_CLIP:g} to {_MOST_CLIP:g}, not {self.start:g}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, not {self.rate:g}")

    def next_clip(
        self, clip: float, share_within: float, *, least: float = _LEAST_CLIP, most: float = _MOST_CLIP
    ) -> float:
        """C exp(-rate (b - quantile)) for the noised share b of updates within C: the same bits on every machine.

        Noise may bring the share out of 0 to 1, which is then taken for the nearer of the two. The clip stays within
        ``least`` and ``most``.
        """
        share = min(max(share_within, 0.0), 1.0)
        return min(max(clip * _exp(-self.rate * (share - self.quantile)), least), most)


def share_within(noised_sum: float, workers: int) -> float:
    """The share of updates within the clip, from the noised sum of b - 1/2."""
    return noised_sum / workers + 0.5


def count_noise(workers: int) -> float:
    """sigma_b: standard deviation of the noise on the sum of b - 1/2."""
    return workers / _WORKERS_A_SIGMA


def model_noise(noise: float, workers: int) -> float:
    """z_delta: the update's noise multiplier, with which both sums together cost what ``noise`` does.

    A ValueError where the count's noise alone costs that, or more: then no noise on the update is enough.
    """
    count = 2 * count_noise(workers)
    if count <= noise:
        fewest = math.floor(noise * _WORKERS_A_SIGMA / 2) + 1
        raise ValueError(
            f"an adaptive clip at noise {noise:g} needs at least {fewest} workers in a round, not {workers}:"
            " with fewer, telling how many were clipped costs as much as the round may; take a fixed clip"
        )
    return 1 / math.sqrt(1 / (noise * noise) - 1 / (count * count))


def _exp(x: float) -> float:
    """For x from -1 to 1, by its series: libraries' own differ in the last bit."""
    value = 1.0
    for term in range(_TERMS, 0, -1):
        value = 1.0 + x * value / term
    return value
