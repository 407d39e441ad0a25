"""A model card: what a model is and where it comes from, as Markdown."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from aggregator.history.history import History
from aggregator.plans import SCHEDULED, schedule_of, scheduled_by
from console import StateError, printable

_SHOWN_SETTINGS = (
    *(
        "rounds",
        "quorum",
        "min_updates",
        "weighting",
        "server_optimizer",
        "server_lr",
        "shared",
        "compression",
        "downlink",
    ),
    *("epochs", "batch_size", "lr", "momentum", "mu", "max_steps", "seed"),
    *map(schedule_of, SCHEDULED),
)


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
    yield from _sites(history, number)
    yield from _settings(history.facts.get("settings", {}), history.settings_by_round(), number)


def _metrics(row: Mapping[str, Any]) -> Iterator[str]:
    found = {**row["metrics"], **row["worker_metrics"]}
    if not found:
        return
    yield "## Metrics of that round"
    yield ""
    yield "| metric | value |"
    yield "| --- | --- |"
    yield from (f"| {name} | {value:.6g} |" for name, value in found.items())
    yield ""


def _sites(history: History, number: int) -> Iterator[str]:
    sums: dict[str, list[int]] = {}
    for update in history.updates():
        if update["verdict"] == "folded" and update["round"] <= number and update["worker"] is not None:
            counted = sums.setdefault(update["worker"], [0, 0])
            counted[0] += 1
            counted[1] += update["num_samples"] or 0
    yield "## Sites"
    yield ""
    yield "| site | updates | samples in them |"
    yield "| --- | --- | --- |"
    yield from (f"| {printable(name)} | {updates} | {samples} |" for name, (updates, samples) in sorted(sums.items()))
    yield ""


def _settings(given: Mapping[str, Any], changes: list[dict[str, Any]], number: int) -> Iterator[str]:
    yield "## Settings"
    yield ""
    known = {name: given[name] for name in _SHOWN_SETTINGS if name in given}
    known |= changes[0]["settings"] if changes else {}
    yield from (
        f"- {name}: {value}" for name, value in known.items() if value is not None or scheduled_by(name) is None
    )
    for change in changes[1:]:
        new = change["settings"]
        known |= new
        texts = [f"{name} {value}" for name, value in new.items() if not _is_by_schedule(name, new, known)]
        if texts and change["from_round"] <= number:
            yield f"- from round {change['from_round']} on: {', '.join(texts)}"


def _is_by_schedule(name: str, new: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a schedule that was there before moved it, which says all."""
    schedule = schedule_of(name)
    return known.get(schedule) is not None and schedule not in new
