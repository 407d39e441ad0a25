"""Reading a state directory: its run, figures, and the report made from them."""

from aggregator.history import report
from aggregator.history.history import History
from aggregator.history.overview import overview
from aggregator.history.report import NAME, write_report

__all__ = ["NAME", "History", "overview", "report", "write_report"]
