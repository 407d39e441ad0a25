"""A model card: what a model is and where it comes from, as Markdown."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from aggregator.history.history import History
from aggregator.history.overview import tiles_of_privacy
from aggregator.plans import SCHEDULED, schedule_of
from console import StateError, printable
from learning import Measured, rank

SHOWN_SETTINGS = (
    *("rounds", "quorum", "deadline_s", "grace_s", "min_updates", "on_short", "max_staleness", "sample"),
    *("weighting", "max_samples", "max_weight", "clip_norm", "robust"),
    *("server_optimizer", "server_lr", "correction"),
    *("shared", "require_same_base", "compression", "zstd", "downlink", "shards"),
    *("privacy", "keeper", "min_sites", "ring", "ring_range", "most_updates"),
    *("dp_clip", "dp_noise", "dp_epsilon", "dp_delta", "dp_spent", "dp_where"),
    *("epochs", "batch_size", "lr", "momentum", "mu", "max_steps", "plan_args", "seed"),
    *("stop_metric", "stop_direction", "stop_at", "patience", "best_by"),
    *map(schedule_of, SCHEDULED),
)
"""Those that make the model what it is."""
_OFF_AT_ZERO = ("grace_s", "max_staleness", "zstd", "shards", "dp_spent", "patience")
_OFF_WITHOUT = {
    **dict.fromkeys(("keeper", "min_sites", "ring"), ("privacy", "none")),
    **dict.fromkeys(("ring_range", "most_updates"), ("ring", "ring64")),
    **dict.fromkeys(("dp_spent", "dp_where"), ("dp_noise", None)),
}
"""Setting -> (another, its value with which the first one has no effect)."""


def model_card(history: History, which: int | str) -> str:
    """The card of the model after a round, ``last`` or ``best``. A StateError if the ledger has no such round."""
    number = history.model_round(which)
    rounds = {row["round"]: row for row in history.closed_rounds() if row["round"] <= number}
    if number not in rounds:
        raise StateError(f"{history.state} has no closed round {number}")
    return "\n".join(_lines(history, rounds, number)) + "\n"


def _lines(history: History, rounds: Mapping[int, Mapping[str, Any]], number: int) -> Iterator[str]:
    facts, row = history.facts, rounds[number]
    yield f"# {printable(str(facts['run']))}, the model after round {number}"
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| run | {printable(str(facts['run_id']))} |"
    yield f"| task | `{printable(str(facts['task']))}` |"
    if "init_sha256" in facts:
        yield f"| began with the file of SHA-256 | `{facts['init_sha256']}` |"
    yield f"| date | {datetime.fromtimestamp(row['closed_at'], UTC):%Y-%m-%d %H:%M} UTC |"
    yield f"| rounds | {len(rounds)} |"
    yield f"| SHA-256 of its tensors | `{row['model_sha256']}` |"
    yield ""
    yield from _metrics(row)
    yield from _privacy(row.get("privacy") or {})
    yield from _sites(history, number)
    yield from _settings(history.facts.get("settings", {}), history.settings_by_round(), number)


def _metrics(row: Mapping[str, Any]) -> Iterator[str]:
    central = Measured.of(row["metrics"])
    found = {**central.metrics, **row["worker_metrics"]}
    if not found:
        return
    yield "## Metrics of that round"
    yield ""
    yield "| metric | value |"
    yield "| --- | --- |"
    yield from (f"| {name} | {found[name]:.6g} |" for name in sorted(found, key=lambda name: (rank(name), name)))
    if central.num_samples is not None:
        yield f"| samples of central test data | {central.num_samples:g} |"
    yield ""


def _privacy(privacy: Mapping[str, Any]) -> Iterator[str]:
    tiles = tiles_of_privacy(privacy)
    if not tiles:
        return
    yield "## Privacy"
    yield ""
    yield from (f"- {value} {label}" for value, label in tiles)
    yield ""


def _sites(history: History, number: int) -> Iterator[str]:
    told = history.tells_of_sites
    sums: dict[str, list[int]] = {}
    for update in history.updates():
        if update["verdict"] == "folded" and update["round"] <= number and update["worker"] is not None:
            counted = sums.setdefault(update["worker"], [0, 0])
            counted[0] += 1
            counted[1] += update["num_samples"] or 0
    yield "## Sites"
    yield ""
    yield "| site | updates | samples in them |" if told else "| site | updates |"
    yield "| --- | --- | --- |" if told else "| --- | --- |"
    for name, (updates, samples) in sorted(sums.items()):
        yield f"| {printable(name)} | {updates} |" + (f" {samples} |" if told else "")
    yield ""


def _settings(given: Mapping[str, Any], changes: list[dict[str, Any]], number: int) -> Iterator[str]:
    yield "## Settings"
    yield ""
    known = dict(given) | (changes[0]["settings"] if changes else {})
    yield from (f"- {name}: {_text(known[name])}" for name in SHOWN_SETTINGS if name in known and _is_on(name, known))
    for change in changes[1:]:
        new = change["settings"]
        known |= new
        texts = [f"{name} {_text(value)}" for name, value in new.items() if not _is_by_schedule(name, new, known)]
        if texts and change["from_round"] <= number:
            yield f"- from round {change['from_round']} on: {', '.join(texts)}"


def _is_on(name: str, known: Mapping[str, Any]) -> bool:
    """Whether a setting has any effect in this run."""
    value = known[name]
    if value is None or value is False or value in ("none", {}) or (name in _OFF_AT_ZERO and value == 0):
        return False
    other, without = _OFF_WITHOUT.get(name, (name, None))
    return known.get(other) != without


def _text(value: object) -> str:
    return ", ".join(f"{name}={each}" for name, each in value.items()) if isinstance(value, Mapping) else f"{value}"


def _is_by_schedule(name: str, new: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a schedule that was there before moved it, which says all."""
    schedule = schedule_of(name)
    return known.get(schedule) is not None and schedule not in new
