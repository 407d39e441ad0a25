"""Learning that needs no training: sums over the samples of all sites."""

from learning.sums.sum_task import SumTask, arrays_of, is_sum_task, operations_of

__all__ = ["SumTask", "arrays_of", "is_sum_task", "operations_of"]
