"""A round: when it ends, what counts in it, what its updates are added to, and the next model made from that."""

from aggregator.rounds.accumulator import NewAccumulator
from aggregator.rounds.attendance import Attendance, PartialUploads, Uploads
from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.fold_kernel import kernel
from aggregator.rounds.intake import Expected, Update, affordable_prefetch, part_bytes_of, read_update
from aggregator.rounds.next_model import NextPiece, next_model
from aggregator.rounds.open_round import Contribution, OpenRound, Stores, add_to
from aggregator.rounds.partial_sum import folded_of, partial_head, read_partial, send_partial
from aggregator.rounds.policy import Close, Extended, OnShort, Quorum, Round, RoundPolicy, decide
from aggregator.rounds.present import Present
from aggregator.rounds.steps import FedAvg, Step, state_names
from aggregator.rounds.verdicts import Fold, Weighting, base_weight_of, decide_on

__all__ = [
    "Attendance",
    "Close",
    "Contribution",
    "ExactSum",
    "Expected",
    "Extended",
    "FedAvg",
    "Fold",
    "NewAccumulator",
    "NextPiece",
    "OnShort",
    "OpenRound",
    "PartialUploads",
    "Present",
    "Quorum",
    "Round",
    "RoundPolicy",
    "Step",
    "Stores",
    "Update",
    "Uploads",
    "Weighting",
    "add_to",
    "affordable_prefetch",
    "base_weight_of",
    "decide",
    "decide_on",
    "folded_of",
    "kernel",
    "next_model",
    "part_bytes_of",
    "partial_head",
    "read_partial",
    "read_update",
    "send_partial",
    "state_names",
]
