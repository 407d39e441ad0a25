"""``report.html``: a finished run in one file that opens from the disk, without a network."""

import os
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from aggregator.history.history import History
from aggregator.history.overview import overview

NAME = "report.html"
SCRIPTS = ("svg.js", "curve.js", "timeline.js", "map.js", "draw.js", "workers.js", "statistics.js")
"""What page and report draw with, in the order in which browsers are to load it."""


def own_source(name: str) -> str:
    """The text of a file that page and report share: ``page.css`` and ``SCRIPTS``."""
    return (files("aggregator.history") / "page" / name).read_text(encoding="utf-8")


def write_report(state: Path) -> Path:
    """Writes the report of the run in ``state`` beside its summary, replacing an earlier one; returns its path.

    An OSError if it cannot be written, a StateError if there is no run.
    """
    path = state / NAME
    temporary = path.with_name(f".{NAME}.tmp")
    try:
        with History(state) as history, temporary.open("w", encoding="utf-8") as file:
            file.write(report(history))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def report(history: History) -> str:
    """The page. Its size is bounded, whatever the number of rounds, workers or refused updates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # nothing else in an aggregator needs them
    from markupsafe import Markup

    pages = Environment(loader=PackageLoader("aggregator.history", "page"), autoescape=True, undefined=StrictUndefined)
    shown = overview(history)
    rounds = shown["rounds"]
    return pages.get_template("report.html.j2").render(
        shown,
        ended=_moment(rounds[-1]["closed_at"]) if rounds else "",
        style=Markup(own_source("page.css")),
        scripts=Markup("\n".join(own_source(name) for name in SCRIPTS)),
    )


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M %Z")
