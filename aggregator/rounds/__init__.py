"""A round: when it ends, what counts in it, the exact sum, and the next model out of that."""

from aggregator.rounds.attendance import Attendance, PartialUploads, Uploads
from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.fedavg import discount, next_values
from aggregator.rounds.fold_kernel import Kernel, kernel
from aggregator.rounds.intake import Expected, Update, base_weight_of, read_update
from aggregator.rounds.open_round import OpenRound
from aggregator.rounds.partial_sum import PartialSum, folded_of, partial_head, read_partial, send_partial
from aggregator.rounds.policy import Close, ClosedBy, Extended, OnShort, Quorum, Round, RoundPolicy, decide
from aggregator.rounds.present import Present

__all__ = [
    "Attendance",
    "Close",
    "ClosedBy",
    "ExactSum",
    "Expected",
    "Extended",
    "Kernel",
    "OnShort",
    "OpenRound",
    "PartialSum",
    "PartialUploads",
    "Present",
    "Quorum",
    "Round",
    "RoundPolicy",
    "Update",
    "Uploads",
    "base_weight_of",
    "decide",
    "discount",
    "folded_of",
    "kernel",
    "next_values",
    "partial_head",
    "read_partial",
    "read_update",
    "send_partial",
]
