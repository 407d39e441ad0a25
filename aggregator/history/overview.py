"""Everything that page and report show of a run, as plain values of bounded size, however long the run was."""

from collections.abc import Mapping, Sequence
from typing import Any

from aggregator.history import charts
from aggregator.history.history import History
from learning import Measured, rank

_TIMELINE_ROUNDS = 20
_MOST_ROUNDS = 500
_MOST_WORKERS = 200
_MOST_NAMES = 10_000
"""Of all that are looked at: anybody could send refused messages under any number of names."""


def overview(history: History) -> dict[str, Any]:
    """The run as it is now. Its figures are named ``curve <metric>``, ``timeline`` and ``contributions``."""
    rounds, summary = history.rounds(), history.summary
    workers = history.contributions(most=_MOST_NAMES)
    recent = rounds[-_TIMELINE_ROUNDS:]
    curves = charts.learning_curves(rounds)
    since = recent[0]["round"] if recent else 0
    figures = {f"curve {name}": figure for name, figure in curves.items()} | {
        "timeline": charts.timeline(recent, history.trained(since_round=since, most=charts.MOST_TIMELINE_UPDATES)),
        "contributions": charts.contributions(workers),
    }
    facts = history.facts
    return {
        "title": _title(history, facts),
        "run": {name: facts.get(name) for name in ("run", "run_id", "task", "queue")},
        "settings": facts.get("settings", {}),
        "num_rounds": facts.get("settings", {}).get("rounds"),
        "stopped": None if summary is None else summary["stopped"],
        "open_round": history.open_round(),
        "tiles": _tiles(rounds, workers),
        "curves": list(curves),
        "comparison": _comparison(summary or {}),
        "timeline_rounds": (since, recent[-1]["round"]) if recent else None,
        "workers": workers[:_MOST_WORKERS],
        "num_more_workers": max(0, len(workers) - _MOST_WORKERS),
        "refused": history.refused(),
        "rounds": rounds[-_MOST_ROUNDS:],
        "num_more_rounds": max(0, len(rounds) - _MOST_ROUNDS),
        "models": list(history.models()),
        "figures": figures,
    }


def _title(history: History, facts: Mapping[str, Any]) -> str:
    """The run's name; or the folder's for a simulation, since all simulations have the same name."""
    name = str(facts.get("run"))
    return history.state.resolve().name if name == "simulation" else name


def _tiles(rounds: Sequence[Mapping[str, Any]], workers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(value, label) of what readers look at first."""
    seconds = sum(row["seconds"] for row in rounds)
    return [
        *_newest_metrics(rounds)[:4],
        (str(len(rounds)), "rounds"),
        (str(len(workers)), "workers"),
        (f"{sum(row['num_folded'] for row in rounds):,}", "updates folded"),
        (f"{sum(row['num_bytes'] for row in workers) / 1e6:,.1f} MB", "of updates received"),
        (f"{seconds:,.1f} s", "in rounds"),
    ]


def _newest_metrics(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(value, label) of the last round's metrics: central ones, or else the workers'."""
    if not rounds:
        return []
    names = charts.metric_names(rounds[-1:])
    central = [name for name in names if name in rounds[-1]]
    shown = central or [f"eval.{name}" for name in names if f"eval.{name}" in rounds[-1]]
    return [(f"{rounds[-1][name]:.4f}", name) for name in shown]


def _comparison(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """What single sites and all data in one place reach, if a simulation measured it."""
    baselines = summary.get("baselines")
    federated = summary.get("final", {}).get("metrics")
    if not baselines or not federated:
        return None
    names = sorted(Measured.of(federated).metrics, key=rank)
    titles = {"single_mean": "one site alone (mean)", "pooled": "all data in one place"}
    found = {"federated": federated} | {title: baselines[key] for key, title in titles.items() if key in baselines}
    return {
        "names": names,
        "rows": [(title, [_number(metrics.get(name)) for name in names]) for title, metrics in found.items()],
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
