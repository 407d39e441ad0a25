"""The global model: rounds, exact mean, checkpoint, ledger. `fl-aggregator` is in cli.py.

From Python: a ``History`` reads any run's state directory; an ``Aggregator`` leads a run, with its settings and events.
"""

from aggregator import events
from aggregator.cli import lead
from aggregator.config import AggregatorConfig
from aggregator.history import History
from aggregator.rounds import Quorum
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings, QuorumAsText, RunSettings

__all__ = [
    "Aggregator",
    "AggregatorConfig",
    "AggregatorSettings",
    "History",
    "Quorum",
    "QuorumAsText",
    "RunSettings",
    "events",
    "lead",
]
