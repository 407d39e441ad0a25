"""What people and Prometheus see of a worker."""

from worker.watchers.metrics import WorkerMetrics
from worker.watchers.view import WorkerView

__all__ = ["WorkerMetrics", "WorkerView"]
