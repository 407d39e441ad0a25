"""The ledger of a run: one SQLite file, its rows as values, and what is asked of it."""

from aggregator.state.ledger.holding import is_held
from aggregator.state.ledger.ledger import Ledger
from aggregator.state.ledger.records import recorded_metrics
from aggregator.state.ledger.rows import (
    Accumulated,
    Charge,
    ClosedBy,
    CommandRow,
    FoldedUpdate,
    Frozen,
    KeptBody,
    MaskSeeds,
    RoundResult,
    UpdateRow,
    Verdict,
    Vote,
)
from aggregator.state.ledger.schema import FORMAT, IS_OF_MEASURED, columns_of
from aggregator.state.ledger.site_metrics import shifted

__all__ = [
    "FORMAT",
    "IS_OF_MEASURED",
    "Accumulated",
    "Charge",
    "ClosedBy",
    "CommandRow",
    "FoldedUpdate",
    "Frozen",
    "KeptBody",
    "Ledger",
    "MaskSeeds",
    "RoundResult",
    "UpdateRow",
    "Verdict",
    "Vote",
    "columns_of",
    "is_held",
    "recorded_metrics",
    "shifted",
]
