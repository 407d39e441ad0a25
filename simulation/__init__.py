"""A whole federation on one machine. `fl-simulate` is in cli.py; only this package knows workers and aggregator.

From Python: ``from simulation import simulate``.
"""

from simulation.notebook import simulate

__all__ = ["simulate"]
