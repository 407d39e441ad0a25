"""What survives a kill of the run's aggregator: ledger, model files, and what follows from them alone."""

from aggregator.state.best_so_far import BestSoFar
from aggregator.state.checkpoint import (
    UNFINISHED_UPDATE,
    ModelFile,
    NewModel,
    StateDirectory,
    WrittenModel,
    companion_specs,
    not_written,
)
from aggregator.state.early_stop import Aim, BestBy, Ending, named
from aggregator.state.initial_model import InitialModel
from aggregator.state.kept_bodies import KeptBodies
from aggregator.state.ledger import (
    FORMAT,
    IS_OF_MEASURED,
    Accumulated,
    Charge,
    ClosedBy,
    CommandRow,
    FoldedUpdate,
    Frozen,
    KeptBody,
    Ledger,
    MaskSeeds,
    RoundResult,
    UpdateRow,
    Verdict,
    Vote,
    columns_of,
    is_held,
    recorded_metrics,
    shifted,
)
from aggregator.state.retention import Retention, best_of
from aggregator.state.summary import check_result, settings_by_round, summarize

__all__ = [
    "FORMAT",
    "IS_OF_MEASURED",
    "UNFINISHED_UPDATE",
    "Accumulated",
    "Aim",
    "BestBy",
    "BestSoFar",
    "Charge",
    "ClosedBy",
    "CommandRow",
    "Ending",
    "FoldedUpdate",
    "Frozen",
    "InitialModel",
    "KeptBodies",
    "KeptBody",
    "Ledger",
    "MaskSeeds",
    "ModelFile",
    "NewModel",
    "Retention",
    "RoundResult",
    "StateDirectory",
    "UpdateRow",
    "Verdict",
    "Vote",
    "WrittenModel",
    "best_of",
    "check_result",
    "columns_of",
    "companion_specs",
    "is_held",
    "named",
    "not_written",
    "recorded_metrics",
    "settings_by_round",
    "shifted",
    "summarize",
]
