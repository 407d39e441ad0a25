"""Who is there: workers by their last sign of life. It decides shares and warnings, never correctness."""

from dataclasses import dataclass

from broker.messages import Presence

ALIVE_S = 35.0
"""A worker not heard of for so long is gone; it says something every 10 s."""


@dataclass(slots=True)
class _Seen:
    at: float
    instance: str
    state: str
    round: int
    earlier_instance: str | None = None


class Attendance:
    """The workers that were heard of lately."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def note(self, presence: Presence, *, now: float) -> bool:
        """Takes a sign of life; True if it shows that two workers go by this name.

        A restarted worker has a new instance and the old one stays silent; two at a time speak in turn.
        """
        last = self._seen.get(presence.worker)
        if last is not None and last.instance != presence.instance and presence.state == "leaving":
            return False
        if presence.state == "leaving":
            self._seen.pop(presence.worker, None)
            return False
        seen = _Seen(now, presence.instance, presence.state, presence.round)
        is_conflict = False
        if last is not None and last.instance != presence.instance:
            seen.earlier_instance = last.instance
            is_conflict = presence.instance == last.earlier_instance
        elif last is not None:
            seen.earlier_instance = last.earlier_instance
        self._seen[presence.worker] = seen
        return is_conflict

    def num_present(self, *, now: float) -> int:
        """How many workers are there; the others are forgotten."""
        for name in [name for name, seen in self._seen.items() if now - seen.at > ALIVE_S]:
            del self._seen[name]
        return len(self._seen)

    def next_change(self) -> float | None:
        """When the next of them will be gone if it stays silent."""
        return min((seen.at + ALIVE_S for seen in self._seen.values()), default=None)

    def names(self) -> list[str]:
        return sorted(self._seen)
