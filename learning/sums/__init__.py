"""Learning that needs no training: sums over the samples of all sites. Tasks of that kind, and federated statistics."""

from learning.sums.columns import columns_of, num_classes_of
from learning.sums.excerpt import digest_of_told, excerpt_of
from learning.sums.figures import figures_of, levels_of, read_condensed
from learning.sums.statistics_task import Layout, SitsOut, StatisticsTask, digest_of
from learning.sums.sum_task import SumTask, arrays_of, is_sum_task, neutral, operations_of

__all__ = [
    "Layout",
    "SitsOut",
    "StatisticsTask",
    "SumTask",
    "arrays_of",
    "columns_of",
    "digest_of",
    "digest_of_told",
    "excerpt_of",
    "figures_of",
    "is_sum_task",
    "levels_of",
    "neutral",
    "num_classes_of",
    "operations_of",
    "read_condensed",
]
