"""What was changed while a run went on: its settings from round to round, and what people asked of it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


def changed_settings(recorded: Iterable[tuple[int, str]]) -> list[dict[str, Any]]:
    """(round, settings as JSON) of the rounds that ran with others than the round before -> what differs, in words."""
    found: list[dict[str, Any]] = []
    before: Mapping[str, Any] | None = None
    for number, text in recorded:
        settings: dict[str, Any] = json.loads(text)
        words = [] if before is None else list(_differences(before, settings))
        if words:
            found.append({"round": number, "text": ", ".join(words)})
        before = settings
    return found


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield f"{name} {_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
