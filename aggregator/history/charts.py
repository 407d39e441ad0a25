"""The learning curves of a run, as plain values that the page's scripts draw.

A figure has a bounded number of points, however long a run was, and no value that JSON does not know.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from learning import AT_SITES, IN_TRAINING, Direction, rank

Figure = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
Spread = Mapping[int, tuple[float, float]]
"""Round -> the lowest and the highest value that a site measured."""

_MOST_POINTS = 1000
_WHOLE_TAIL = 300
_MOST_METRICS = 6
_CURVES = (
    ("", "global model, central test data", "blue"),
    (AT_SITES, "global model, at the sites", "green"),
    (IN_TRAINING, "while training at the sites", "orange"),
)
NO_SPREAD: Mapping[str, Spread] = {}


def learning_curves(rounds: Rows, spreads: Mapping[str, Spread] = NO_SPREAD) -> dict[str, Figure]:
    """One figure a metric, over the rounds: central, at the sites, in training. ``rounds`` are flat rows.

    ``spreads`` has, for some metrics, how far apart the sites are; it is drawn as a band.
    """
    shown = thinned(rounds)
    return {name: _curve(shown, name, spreads.get(name, {})) for name in metric_names(rounds)}


def setting_curve(values: Mapping[int, float]) -> Figure:
    """A setting over the rounds."""
    shown = thinned([{"round": number, "value": value} for number, value in values.items()])
    x, y = [row["round"] for row in shown], [row["value"] for row in shown]
    series = {"name": "setting, by schedule", "colour": "blue", "x": x, "y": y}
    return {"kind": "curve", "series": [series], "band": {"x": [], "low": [], "high": []}, "better": None}


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
        "num_diverged",
        "num_unselected",
        "num_chosen",
        "draws",
        "num_outvoted",
        "num_not_finite",
        "num_samples",
        "model_sha256",
    }
)


def _curve(rounds: Rows, name: str, spread: Spread) -> Figure:
    series = []
    for prefix, label, colour in _CURVES:
        points = [(row["round"], row[prefix + name]) for row in rounds if row.get(prefix + name) is not None]
        if points:
            series.append(
                {
                    "name": label,
                    "colour": colour,
                    "x": [number for number, _ in points],
                    "y": [value if math.isfinite(value) else None for _, value in points],
                }
            )
    between = [(row["round"], *spread[row["round"]]) for row in rounds if row["round"] in spread]
    band = {
        "x": [at for at, *_ in between],
        "low": [low for _, low, _ in between],
        "high": [high for *_, high in between],
    }
    return {"kind": "curve", "series": series, "band": band, "better": Direction.of(name)}


def thinned(rounds: Rows) -> Rows:
    """At most 1,000 rounds: the last 300 as they are, those before them evenly thinned."""
    if len(rounds) <= _MOST_POINTS:
        return rounds
    before, tail = rounds[:-_WHOLE_TAIL], rounds[-_WHOLE_TAIL:]
    step = -(-len(before) // (_MOST_POINTS - _WHOLE_TAIL))
    return [*before[::step], *tail]
