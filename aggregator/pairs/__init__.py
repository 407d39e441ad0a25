"""Which settings of a run do not go together, and why."""

from aggregator.pairs.idle import idle_in_evaluation
from aggregator.pairs.table import PAIRS, Pair, problems_of_pairs

__all__ = ["PAIRS", "Pair", "idle_in_evaluation", "problems_of_pairs"]
