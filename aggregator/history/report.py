"""``report.html``: a finished run in one file that opens from the disk, without a network."""

import os
from collections.abc import Iterator
from datetime import datetime
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from aggregator.history.history import History
from aggregator.history.overview import overview

NAME = "report.html"
_PLOTLY = "/* plotly */"
_PIECE = 2**16


def plotly_js() -> str:
    """The source of plotly's JavaScript library, as in its package."""
    return _plotly_file().read_text(encoding="utf-8")


def _plotly_file() -> Traversable:
    return files("plotly") / "package_data" / "plotly.min.js"


def own_source(name: str) -> str:
    """The text of a file that page and report share: ``page.css``, ``draw.js``."""
    return (files("aggregator.history") / "page" / name).read_text(encoding="utf-8")


def write_report(state: Path) -> Path:
    """Writes the report of the run in ``state`` beside its summary, replacing an earlier one; returns its path.

    An OSError if it cannot be written, a StateError if there is no run.
    """
    path = state / NAME
    temporary = path.with_name(f".{NAME}.tmp")
    try:
        with History(state) as history, temporary.open("w", encoding="utf-8") as file:
            file.writelines(report(history))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def report(history: History) -> Iterator[str]:
    """The page, piece by piece: plotly alone is megabytes, and an aggregator's memory should not grow.

    Its size is bounded, whatever the number of rounds, workers or refused updates.
    """
    shown = overview(history)
    rounds = shown["rounds"]
    page = _template().render(
        shown,
        ended=_moment(rounds[-1]["closed_at"]) if rounds else "",
        style=Markup(own_source("page.css")),
        draw=Markup(own_source("draw.js")),
        plotly=Markup(_PLOTLY),
    )
    before, _, after = page.partition(_PLOTLY)
    yield before
    with _plotly_file().open(encoding="utf-8") as script:
        yield from iter(lambda: script.read(_PIECE), "")
    yield after


def _template() -> Template:
    loader = PackageLoader("aggregator.history", "page")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("report.html.j2")


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M %Z")
