"""Watchers: terminal, status, metrics, experiment logs. They receive events and decide nothing."""

from aggregator.watchers.evaluation_table import evaluation_table
from aggregator.watchers.experiment_logs import experiment_logs
from aggregator.watchers.log import log_event, privacy_text
from aggregator.watchers.metrics import AggregatorMetrics
from aggregator.watchers.partial_metrics import PartialMetrics
from aggregator.watchers.partial_view import PartialView
from aggregator.watchers.runaway import Runaway
from aggregator.watchers.status import StatusSender
from aggregator.watchers.view import AggregatorView

__all__ = [
    "AggregatorMetrics",
    "AggregatorView",
    "PartialMetrics",
    "PartialView",
    "Runaway",
    "StatusSender",
    "evaluation_table",
    "experiment_logs",
    "log_event",
    "privacy_text",
]
