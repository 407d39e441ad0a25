"""A round: when it ends, what counts in it, what its updates are added to, and the next model made from that."""

from aggregator.rounds.accumulator import Accumulator, Floats, Key, NewAccumulator, NoiseAt, TooFew, spans_of
from aggregator.rounds.answers import PassOver, decide_on_answer, is_answer, read_answer
from aggregator.rounds.exact_sum import ExactSum, Layout, numbers
from aggregator.rounds.fold_kernel import kernel_for
from aggregator.rounds.intake import (
    Expected,
    Update,
    affordable_prefetch,
    check_body,
    largest_message,
    part_bytes_of,
    read_update,
)
from aggregator.rounds.next_model import MASTER, LeavesRange, Stepping, companions_of, next_model, norm_of_mean
from aggregator.rounds.open_round import Contribution, OpenRound, Stores, add_to
from aggregator.rounds.partial_sum import PartialSender, folded_of, read_partial
from aggregator.rounds.policy import Close, Extended, OnShort, Quorum, Round, RoundPolicy, decide
from aggregator.rounds.verdicts import (
    Decision,
    Duplicate,
    Fold,
    Late,
    Refuse,
    Unselected,
    decide_on,
)

__all__ = [
    "MASTER",
    "Accumulator",
    "Close",
    "Contribution",
    "Decision",
    "Duplicate",
    "ExactSum",
    "Expected",
    "Extended",
    "Floats",
    "Fold",
    "Key",
    "Late",
    "Layout",
    "LeavesRange",
    "NewAccumulator",
    "NoiseAt",
    "OnShort",
    "OpenRound",
    "PartialSender",
    "PassOver",
    "Quorum",
    "Refuse",
    "Round",
    "RoundPolicy",
    "Stepping",
    "Stores",
    "TooFew",
    "Unselected",
    "Update",
    "add_to",
    "affordable_prefetch",
    "check_body",
    "companions_of",
    "decide",
    "decide_on",
    "decide_on_answer",
    "folded_of",
    "is_answer",
    "kernel_for",
    "largest_message",
    "next_model",
    "norm_of_mean",
    "numbers",
    "part_bytes_of",
    "read_answer",
    "read_partial",
    "read_update",
    "spans_of",
]
