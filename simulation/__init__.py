"""A whole federation on one machine. `fl-simulate` is in cli.py; only this package knows both workers and aggregator.

From Python: ``from simulation import simulate``.
"""

from simulation.notebook import simulate
from simulation.settings import SimulationSettings

__all__ = ["SimulationSettings", "simulate"]
