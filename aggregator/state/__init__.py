"""What is true of a run after a kill: ledger, model files, and what follows from them alone."""

from aggregator.state.checkpoint import ModelFile, NewModel, StateDirectory
from aggregator.state.early_stop import Aim, reason_to_stop
from aggregator.state.ledger import FORMAT, Accumulated, Ledger, RoundResult, UpdateRow, Verdict, recorded_metrics
from aggregator.state.retention import best_of, rounds_to_keep
from aggregator.state.summary import summarize

__all__ = [
    "FORMAT",
    "Accumulated",
    "Aim",
    "Ledger",
    "ModelFile",
    "NewModel",
    "RoundResult",
    "StateDirectory",
    "UpdateRow",
    "Verdict",
    "best_of",
    "reason_to_stop",
    "recorded_metrics",
    "rounds_to_keep",
    "summarize",
]
