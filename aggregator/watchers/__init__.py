"""Those who look on: terminal, status, metrics, logs of experiments. They learn of events, and decide nothing."""

from aggregator.watchers.experiment_logs import experiment_logs
from aggregator.watchers.live import AggregatorView
from aggregator.watchers.metrics import AggregatorMetrics
from aggregator.watchers.status import StatusSender

__all__ = ["AggregatorMetrics", "AggregatorView", "StatusSender", "experiment_logs"]
