"""`fl-statistics` is in cli.py."""

from simulation.statistics.settings import StatisticsSettings

__all__ = ["StatisticsSettings"]
