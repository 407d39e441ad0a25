"""Names that two workers have at the same time. Both are told of it, by the heads of models.

Whoever can send signs of life can make up any number of such names, so heads and log lines go out for many at once.
"""

import logging
import math

from console import some_of

log = logging.getLogger(__name__)

_MOST_NAMES = 1000
_MOST_SHOWN = 10
_EVERY_S = 10.0


class NameConflicts:
    """The names found so far in this process; at most 1,000."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._new: list[str] = []
        self._not_before = -math.inf

    @property
    def names(self) -> tuple[str, ...]:
        """All names, for a head."""
        return tuple(sorted(self._names))

    def found(self, worker: str) -> None:
        """Takes a name that two workers have."""
        if worker not in self._names and len(self._names) < _MOST_NAMES:
            self._names.add(worker)
            self._new.append(worker)

    def is_due(self, *, now: float) -> bool:
        """Whether new names are to be announced: at once, but at most every ten seconds."""
        return bool(self._new) and now >= self._not_before

    def time_left(self, *, now: float) -> float:
        """Seconds until names are due; infinity if there are none."""
        return max(0.0, self._not_before - now) if self._new else math.inf

    def announce(self, *, now: float) -> None:
        """Logs the new names, which count as announced from now on; the next head is to have them."""
        names, self._new = self._new, []
        self._not_before = now + _EVERY_S
        log.warning(
            "two workers go by the name %s; each round counts only one of them; start one with another --name",
            some_of([f"'{name}'" for name in names], _MOST_SHOWN),
        )
