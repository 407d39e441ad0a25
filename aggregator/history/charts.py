"""The figures of a run, as plotly takes them: ``{"data": […], "layout": {…}}``. Plain values in, plain values out.

Page, report and notebook show the same figures. Most people can tell the colours apart, on light and on dark ground.
Workers' names are escaped, since plotly renders some HTML in labels. A figure has a bounded number of points, however
long a run was.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from learning import AT_SITES, IN_TRAINING, rank

Figure = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]

BLUE, ORANGE, GREEN, RED, GREY = "#3d86d6", "#e0921f", "#1f9d78", "#d4552a", "#8b929c"
_MOST_POINTS = 1000
_MOST_METRICS = 6
_MOST_BARS = 40
MOST_TIMELINE_UPDATES = 600
_CURVES = (
    ("", "global model, central test data", BLUE, "solid"),
    (AT_SITES, "global model, at the sites", GREEN, "solid"),
    (IN_TRAINING, "while training at the sites", ORANGE, "dot"),
)
_VERDICT_COLOURS = {
    "folded": BLUE,
    "late": ORANGE,
    "duplicate": GREY,
    "refused": RED,
    "abandoned": GREY,
    "undone": GREY,
    "withdrawn": GREY,
}


def learning_curves(rounds: Rows) -> dict[str, Figure]:
    """One figure a metric, over the rounds: central, at the sites, in training. ``rounds`` are flat rows."""
    shown = _thinned(rounds)
    return {name: _curve(shown, name) for name in metric_names(rounds)}


def metric_names(rounds: Rows) -> list[str]:
    """The metrics in these flat rows, without ``eval.`` and ``train.``; accuracy before loss before others."""
    found: dict[str, None] = {}
    for prefix, *_ in _CURVES:
        for row in (*rounds[:1], *rounds[-1:]):
            for key, value in row.items():
                name = key.removeprefix(prefix)
                is_metric = key.startswith(prefix) if prefix else "." not in key and key not in _COLUMNS
                if is_metric and isinstance(value, int | float):
                    found.setdefault(name)
    return sorted(found, key=rank)[:_MOST_METRICS]


_COLUMNS = frozenset(
    {
        "round",
        "opened_at",
        "closed_at",
        "closed_by",
        "seconds",
        "num_folded",
        "num_late",
        "num_refused",
        "num_duplicate",
        "num_samples",
        "model_sha256",
    }
)


def _curve(rounds: Rows, name: str) -> Figure:
    traces = []
    for prefix, label, colour, dash in _CURVES:
        points = [(row["round"], row[prefix + name]) for row in rounds if row.get(prefix + name) is not None]
        if points:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(points) <= 60 else "lines",
                    "name": label,
                    "x": [number for number, _ in points],
                    "y": [value for _, value in points],
                    "line": {"color": colour, "width": 2, "dash": dash},
                    "marker": {"size": 5},
                    "hovertemplate": "round %{x}: %{y:.4f}",
                }
            )
    layout = _layout(height=300)
    layout["xaxis"] |= {"title": {"text": "round"}, "tickformat": "d", "rangemode": "tozero"}
    layout["yaxis"] |= {"title": {"text": html.escape(name, quote=False)}}
    return {"data": traces, "layout": layout}


def timeline(rounds: Rows, updates: Iterable[Mapping[str, Any]]) -> Figure:
    """Who trained when, who waited, what closed each round. ``updates`` are those decided in these rounds.

    A bar shows training, a pale one transfer and waiting until the aggregator took the update, by the workers' clocks.
    """
    bars = [update for update in updates if update.get("train_s") is not None][-MOST_TIMELINE_UPDATES:]
    traces: list[dict[str, Any]] = []
    for verdict in dict.fromkeys(update["verdict"] for update in bars):
        own = [update for update in bars if update["verdict"] == verdict]
        traces.append(_bars(own, verdict, _VERDICT_COLOURS.get(verdict, GREY), is_wait=False))
        traces.append(_bars(own, f"{verdict}: under way", _VERDICT_COLOURS.get(verdict, GREY), is_wait=True))
    workers = sorted({update["worker"] for update in bars if update["worker"] is not None})
    layout = _layout(height=150 + 22 * max(3, len(workers)))
    layout["barmode"] = "overlay"
    layout["xaxis"] |= {"type": "date"}
    layout["yaxis"] |= {"automargin": True, "type": "category", "categoryarray": [_name(one) for one in workers[::-1]]}
    first_shown = min((update["round"] for update in bars), default=0)
    ends = [row for row in rounds if row["round"] >= first_shown and row.get("closed_at")]
    layout["shapes"] = [_end_line(row) for row in ends]
    layout["annotations"] = [_end_label(row) for row in ends[:: max(1, -(-len(ends) // 12))]]
    return {"data": traces, "layout": layout}


def _bars(updates: Rows, name: str, colour: str, *, is_wait: bool) -> dict[str, Any]:
    seconds = [update["queue_s"] or 0.0 if is_wait else update["train_s"] for update in updates]
    begins = [
        update["received_at"] - (update["queue_s"] or 0.0) - (0.0 if is_wait else update["train_s"])
        for update in updates
    ]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [_name(update["worker"]) for update in updates],
        "base": [_moment(begin) for begin in begins],
        "x": [1000.0 * duration for duration in seconds],
        "customdata": [[update["round"], duration] for update, duration in zip(updates, seconds, strict=True)],
        "marker": {"color": colour, "opacity": 0.3 if is_wait else 1.0},
        "width": 0.35 if is_wait else 0.7,
        "showlegend": not is_wait,
        "hovertemplate": "%{y}, round %{customdata[0]}: %{customdata[1]:.2f} s "
        + ("under way" if is_wait else "training"),
    }


def _end_line(row: Mapping[str, Any]) -> dict[str, Any]:
    at = _moment(row["closed_at"])
    line = {"color": GREY, "width": 1, "dash": "dot"}
    return {"type": "line", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line}


def _end_label(row: Mapping[str, Any]) -> dict[str, Any]:
    text = f"{row['round']} {html.escape(str(row['closed_by']), quote=False)}"
    return {
        "x": _moment(row["closed_at"]),
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "text": text,
        "textangle": -35,
        "xanchor": "left",
        "showarrow": False,
        "font": {"size": 10},
    }


def contributions(workers: Rows) -> Figure:
    """Samples that each worker contributed over all rounds, the most first. The smallest share one bar."""
    most = sorted(workers, key=lambda row: (-row["num_samples"], str(row["worker"])))
    shown, rest = most[:_MOST_BARS], most[_MOST_BARS:]
    names = [_name(row["worker"]) for row in shown]
    samples = [row["num_samples"] for row in shown]
    details = [
        f"{row['num_folded']} updates folded, {row['num_late']} late, {row['num_refused']} refused" for row in shown
    ]
    if rest:
        names.append(f"{len(rest)} more")
        samples.append(sum(row["num_samples"] for row in rest))
        details.append("together")
    layout = _layout(height=90 + 24 * max(3, len(names)))
    layout["xaxis"] |= {"title": {"text": "samples, all rounds"}}
    layout["yaxis"] |= {"automargin": True, "type": "category", "autorange": "reversed"}
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": samples,
        "customdata": details,
        "marker": {"color": BLUE},
        "hovertemplate": "%{y}: %{x} samples<br>%{customdata}<extra></extra>",
    }
    return {"data": [bars], "layout": layout}


def _layout(*, height: int) -> dict[str, Any]:
    axis = {"gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "automargin": True}
    return {
        "height": height,
        "margin": {"l": 50, "r": 12, "t": 34, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": GREY},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hovermode": "closest",
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }


def _thinned(rounds: Rows) -> Rows:
    """Evenly thinned rounds; the last one is kept."""
    step = -(-len(rounds) // _MOST_POINTS) or 1
    return rounds if step == 1 else [*rounds[:-1:step], rounds[-1]]


def _name(worker: str | None) -> str:
    return html.escape(worker or "unknown", quote=False)


def _moment(unix_s: float) -> str:
    """A date in UTC, as plotly reads it."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
