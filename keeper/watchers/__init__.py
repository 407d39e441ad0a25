"""Who watches a keeper: its live view in a terminal, and its metrics for Prometheus."""

from keeper.watchers.metrics import KeeperMetrics
from keeper.watchers.view import KeeperView

__all__ = ["KeeperMetrics", "KeeperView"]
