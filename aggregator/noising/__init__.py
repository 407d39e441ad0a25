"""Differential privacy at the aggregator: the run's budget, and the noise in the sums of its rounds."""

from aggregator.noising.settings import NoiseSettings
from aggregator.noising.spending import CannotBeNoised, CentralNoise, Noising, Spending, clips_in_reach, multiplier

__all__ = [
    "CannotBeNoised",
    "CentralNoise",
    "NoiseSettings",
    "Noising",
    "Spending",
    "clips_in_reach",
    "multiplier",
]
