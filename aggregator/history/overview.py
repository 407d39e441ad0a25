"""Everything that page and report show of a run, as plain values of bounded size, however long the run was."""

from collections.abc import Mapping, Sequence
from typing import Any

from aggregator.history import charts
from aggregator.history.history import History
from aggregator.history.portable import portable
from aggregator.history.sites import Site, site_map, sites_in, spread_of
from aggregator.history.timeline import MOST_TIMELINE_UPDATES, timeline
from aggregator.state import ClosedBy, named
from console import metric_text
from learning import AT_SITES, Direction, Measured, rank
from learning.sums import digest_of_told, excerpt_of

_TIMELINE_ROUNDS = 20
_MOST_ROUNDS = 500
_MOST_WORKERS = 200
_ROUNDS_LATE = 5
_MOST_CELLS = 200_000
"""Sites times rounds of the map."""
_ROUND_COLUMNS = ("round", "closed_by", "num_folded", "num_late", "num_refused", "seconds", "closed_at", "model_sha256")
_MOST_NAMES = 10_000
"""Of all that are looked at: anybody could send refused messages under any number of names."""


def overview(history: History) -> dict[str, Any]:
    """The run as it is now. Its figures are named ``curve <metric>``, ``timeline`` and ``sites``."""
    rounds, workers = history.rounds(), history.contributions(most=_MOST_NAMES)
    shown = _with_most_samples(workers)
    metric = _metric_at_sites(rounds)
    better = None if metric is None else history.aim.direction_of(metric)
    first, last = _span(rounds, num_sites=len(shown))
    names = [row["worker"] for row in shown if row["worker"] is not None]
    sites = sites_in(history.decided(since_round=first, metric=metric), names, first=first, last=last)
    found = _outline(history, rounds, {} if metric is None else {metric: spread_of(sites)})
    found["figures"]["sites"] = site_map(sites, first=first, last=last, metric=metric)
    return found | {
        "tiles": found["tiles"] + _tiles_of_workers(workers),
        "metric": metric,
        "workers": [row | {"measured": _measured(sites.get(row["worker"] or ""), better)} for row in shown],
        "num_more_workers": max(0, len(workers) - len(shown)),
    }


def outline(history: History) -> dict[str, Any]:
    """The same without what takes a look at every update: the workers and their map. It is there at once."""
    return _outline(history, history.rounds(), {}) | {"metric": None, "workers": [], "num_more_workers": 0}


def _outline(history: History, rounds: charts.Rows, spreads: Mapping[str, charts.Spread]) -> dict[str, Any]:
    facts, summary = portable(history.facts), history.summary
    recent = rounds[-_TIMELINE_ROUNDS:]
    since = recent[0]["round"] if recent else 0
    curves = charts.learning_curves(rounds, spreads)
    curves |= {f"setting {name}": charts.setting_curve(values) for name, values in history.scheduled().items()}
    figures: dict[str, charts.Figure] = {f"curve {name}": figure for name, figure in curves.items()}
    changes = history.changes()
    for curve in curves.values():
        curve["marks"] = changes
    figures["timeline"] = timeline(recent, history.trained(since_round=since, most=MOST_TIMELINE_UPDATES))
    return {
        "title": title_of(history, facts),
        "run": {name: facts.get(name) for name in ("run", "run_id", "task", "queue")},
        "settings": facts.get("settings", {}) | _digests(facts),
        "statistics": portable(_excerpt(history)),
        "num_rounds": facts.get("settings", {}).get("rounds"),
        "tells_of_sites": history.tells_of_sites,
        "stopped": None if summary is None else summary["stopped"],
        "open_round": history.open_round(),
        "tiles": _tiles_of_rounds(history, rounds),
        "curves": list(curves),
        "comparison": _comparison(summary or {}),
        "num_closed": len(rounds),
        "changes": changes,
        "refused": history.refused(),
        "without_update": history.without_update(),
        "rounds": [_line(row) for row in rounds[-_MOST_ROUNDS:]],
        "num_more_rounds": max(0, len(rounds) - _MOST_ROUNDS),
        "models": list(history.models()),
        "figures": figures,
    }


def _digests(facts: Mapping[str, Any]) -> dict[str, str]:
    """Of what the run began with: the file of its model, and what tasks are told of all sites' samples."""
    found = {name: facts[name] for name in ("init_sha256",) if name in facts}
    told = facts.get("statistics")
    return found | ({"statistics_sha256": digest_of_told(told)} if told else {})


def _excerpt(history: History) -> dict[str, Any] | None:
    figures = history.statistics
    return None if figures is None else excerpt_of(figures)


def title_of(history: History, facts: Mapping[str, Any]) -> str:
    """The run's name; or the folder's for a simulation, since all have the same name, and for what never began."""
    name = facts.get("run")
    return history.state.resolve().name if name in (None, "simulation") else str(name)


def _metric_at_sites(rounds: charts.Rows) -> str | None:
    """The metric by which sites are compared: the first of those that people look for."""
    recent = rounds[-_ROUNDS_LATE:]  # the sites measure a model one round later
    names = [name for name in charts.metric_names(rounds) if any(f"{AT_SITES}{name}" in row for row in recent)]
    return names[0] if names else None


def _span(rounds: charts.Rows, *, num_sites: int) -> tuple[int, int]:
    """The first and the last round of the map."""
    if not rounds:
        return 1, 0
    last = rounds[-1]["round"]
    return max(rounds[0]["round"], last + 1 - max(20, _MOST_CELLS // max(1, num_sites))), last


def _with_most_samples(workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most 200 workers, in the order that they had."""
    by_samples = sorted(range(len(workers)), key=lambda index: -(workers[index]["num_samples"] or 0))
    return [workers[index] for index in sorted(by_samples[:_MOST_WORKERS])]


def _measured(site: Site | None, better: Direction | None) -> dict[str, float] | None:
    return None if site is None or better is None else site.of(better)


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _ROUND_COLUMNS} | {"num_chosen": row.get("num_chosen")}


def _tiles_of_rounds(history: History, rounds: charts.Rows) -> list[tuple[str, str]]:
    """(value, label) of what readers look at first."""
    best = history.best()
    return [
        *_newest_metrics(rounds)[:4],
        *(
            []
            if best is None
            else [(_number(best[2]), f"best {named(best[0], history.aim.best_by)}, round {best[1]:,}")]
        ),
        (f"{sum(row['closed_by'] != ClosedBy.EVALUATED for row in rounds):,}", "rounds"),
        (f"{sum(row['num_folded'] for row in rounds):,}", "updates folded"),
        (_duration(sum(row["seconds"] for row in rounds)), "in rounds"),
        *tiles_of_privacy(history.privacy()),
    ]


def tiles_of_privacy(privacy: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who could see what, and what the models have cost, with all without which epsilon says nothing."""
    secure, noise = privacy.get("secure"), privacy.get("noise")
    tiles = []
    if secure is not None:
        names = ", ".join(secure["keepers"])
        tiles.append((f"{secure['min_sites']}", f"sites at least in all that was opened, by keeper {names}"))
    if noise is not None:
        label = (
            f"epsilon of {noise['budget']:g} at delta {noise['delta']:g}: {noise['unit']}; {noise['releases']} releases"
            f" at noise {noise['noise']:g}"
        )
        tiles.append((f"{noise['epsilon']:.3g}", label))
    return tiles


def _tiles_of_workers(workers: charts.Rows) -> list[tuple[str, str]]:
    return [
        (f"{len(workers):,}", "workers"),
        (_size(sum(row["num_bytes"] for row in workers)), "of updates received"),
    ]


def _newest_metrics(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(value, label) of the last round's metrics: central ones, or else the workers'."""
    if not rounds:
        return []
    names = charts.metric_names(rounds[-1:])
    central = [name for name in names if name in rounds[-1]]
    if central:
        return [(_number(rounds[-1][name]), name) for name in central]
    for row in rounds[: -1 - _ROUNDS_LATE : -1]:
        at_sites = sorted((name for name in row if name.startswith(AT_SITES)), key=rank)
        if at_sites:
            return [(_number(row[name]), name) for name in at_sites]
    return []


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
    return "" if value is None else metric_text(value)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    """Such as 41.2 s, 12 min and 5.8 h."""
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
