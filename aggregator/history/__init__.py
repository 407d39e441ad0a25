"""Reading a state directory: its run, figures, and the report made from them."""

from aggregator.history import report
from aggregator.history.export import export
from aggregator.history.history import MEASURED, History
from aggregator.history.overview import outline, overview, title_of
from aggregator.history.portable import portable, without_folder
from aggregator.history.report import NAME, write_report

__all__ = [
    "MEASURED",
    "NAME",
    "History",
    "export",
    "outline",
    "overview",
    "portable",
    "report",
    "title_of",
    "without_folder",
    "write_report",
]
