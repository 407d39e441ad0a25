"""What changed while a run went on: settings from round to round, by people or by schedule."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from aggregator.plans import SCHEDULED, number_of, schedule_of


def changed_settings(recorded: Iterable[tuple[int, str]]) -> list[dict[str, Any]]:
    """(round, settings as JSON) of the rounds that ran with others than the round before -> what differs, in words.

    What a schedule moves is no change, as long as it is the same schedule.
    """
    found: list[dict[str, Any]] = []
    before: Mapping[str, Any] | None = None
    for number, text in recorded:
        settings: dict[str, Any] = json.loads(text)
        words = [] if before is None else list(_differences(before, settings))
        if words:
            found.append({"round": number, "text": ", ".join(words)})
        before = settings
    return found


def scheduled_values(rounds: Iterable[int], changes: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Setting -> round -> its value, from the first round in which it followed a schedule.

    ``changes`` are those of ``settings_by_round``.
    """
    found: dict[str, dict[int, float]] = {}
    new = {change["from_round"]: change["settings"] for change in changes}
    known: dict[str, Any] = {}
    for number in rounds:
        known |= new.get(number, {})
        for name in SCHEDULED:
            if name in found or known.get(schedule_of(name)) is not None:
                found.setdefault(name, {})[number] = number_of(known[name])
    return found


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old != new and not _follows_one(name, before, after):
            yield f"{name} {_shown(old)} → {_shown(new)}"


def _follows_one(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a setting goes by the same schedule in both."""
    schedule = schedule_of(name)
    return before.get(schedule) is not None and before.get(schedule) == after.get(schedule)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
