"""Differential privacy at the aggregator: the run's budget, and the noise in the sums of its rounds."""

from aggregator.noising.settings import NoiseSettings
from aggregator.noising.spending import CentralNoise, Noising, Spending, multiplier

__all__ = ["CentralNoise", "NoiseSettings", "Noising", "Spending", "multiplier"]
