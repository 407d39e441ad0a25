"""``report.html``: a run that is over, in one file that opens from the disk, without a network."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from aggregator import charts
from aggregator.history import History

NAME = "report.html"
_TIMELINE_ROUNDS = 20
_MOST_ROUNDS = 500
_MOST_WORKERS = 200


def plotly_js() -> str:
    """The source of plotly's library for pages, as its package has it."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def own_source(name: str) -> str:
    """One of the files that page and report share: ``page.css``, ``draw.js``."""
    return (files("aggregator") / "page" / name).read_text(encoding="utf-8")


def write_report(state: Path) -> Path:
    """Writes the report of the run in ``state`` beside its summary, in place of an earlier one; returns its path.

    An OSError where it cannot be written, a StateError where there is no run that is over.
    """
    path = state / NAME
    temporary = path.with_name(f".{NAME}.tmp")
    try:
        with History(state) as history:
            temporary.write_text(report(history), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def report(history: History) -> str:
    """The page. Its size does not grow without bound with rounds, workers or refused updates."""
    rounds, workers, summary = history.rounds(), history.contributions(), history.summary or {}
    first = max(1, len(rounds) - _TIMELINE_ROUNDS + 1)
    recent = rounds[first - 1 :]
    curves = charts.learning_curves(rounds)
    since = recent[0]["round"] if recent else 0
    figures = {f"curve {name}": figure for name, figure in curves.items()} | {
        "timeline": charts.timeline(recent, history.updates(since_round=since)),
        "contributions": charts.contributions(workers),
    }
    most = sorted(workers, key=lambda row: -row["num_samples"])
    return _template().render(
        facts=history.facts,
        summary={"stopped": summary.get("stopped", "")},
        ended=_moment(rounds[-1]["closed_at"]) if rounds else "",
        tiles=_tiles(rounds, workers, summary),
        curves=list(curves),
        comparison=_comparison(summary),
        timeline_rounds=(since, recent[-1]["round"] if recent else 0),
        workers=most[:_MOST_WORKERS],
        num_more_workers=max(0, len(most) - _MOST_WORKERS),
        refused=history.refused(),
        rounds=rounds[-_MOST_ROUNDS:],
        num_more_rounds=max(0, len(rounds) - _MOST_ROUNDS),
        settings=summary.get("settings", {}),
        figures=figures,
        style=Markup(own_source("page.css")),
        draw=Markup(own_source("draw.js")),
        plotly=Markup(plotly_js()),
    )


def _template() -> Template:
    loader = PackageLoader("aggregator", "page")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("report.html.j2")


def _tiles(rounds: Sequence[Mapping[str, Any]], workers: Sequence[Any], summary: Mapping[str, Any]) -> list[Any]:
    final = summary.get("final", {})
    metrics = final.get("metrics") or final.get("worker_metrics") or {}
    names = sorted((name for name in metrics if not name.endswith("num_samples")), key=charts.rank)
    shown = [(f"{metrics[name]:.4f}", name) for name in names]
    seconds = sum(row["seconds"] for row in rounds)
    return [
        *shown[:4],
        (str(len(rounds)), "rounds"),
        (str(len(workers)), "workers"),
        (f"{sum(row['num_folded'] for row in rounds):,}", "updates folded"),
        (f"{sum(row['num_bytes'] for row in workers) / 1e6:,.1f} MB", "of updates received"),
        (f"{seconds:,.1f} s", "in rounds"),
    ]


def _comparison(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """What single sites and all data in one place reach, where a simulation found out."""
    baselines = summary.get("baselines")
    federated = summary.get("final", {}).get("metrics")
    if not baselines or not federated:
        return None
    names = [name for name in federated if name != "num_samples"]
    titles = {"federated": federated} | {
        title: baselines[key]
        for key, title in (("single_mean", "one site alone (mean)"), ("pooled", "all data in one place"))
        if key in baselines
    }
    rows = [
        (title, [f"{metrics[name]:.4f}" if name in metrics else "" for name in names])
        for title, metrics in titles.items()
    ]
    return {"names": names, "rows": rows}


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M %Z")
