"""Reading a state directory: its run, figures, and the report made from them."""

from aggregator.history import report
from aggregator.history.export import export
from aggregator.history.history import MEASURED, STATISTICS, History
from aggregator.history.overview import outline, overview
from aggregator.history.portable import portable, without_folder
from aggregator.history.report import NAME, write_report
from aggregator.history.runs import Run, digest, runs_in

__all__ = [
    "MEASURED",
    "NAME",
    "STATISTICS",
    "History",
    "Run",
    "digest",
    "export",
    "outline",
    "overview",
    "portable",
    "report",
    "runs_in",
    "without_folder",
    "write_report",
]
