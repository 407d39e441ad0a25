"""Workers that somebody has excluded while the run goes on (``fl-run exclude``)."""

import fnmatch
from collections.abc import Mapping, Sequence

from aggregator.senders.admission import Admission


class Excluding:
    """Admits the workers that ``others`` admits, except those that are excluded."""

    def __init__(self, others: Admission) -> None:
        self._others = others
        self.looks_every_s = others.looks_every_s
        self._excluded: dict[str, int] = {}
        """Name or pattern -> the round that was open when it was excluded."""
        self._has_changed = False

    def exclude(self, excluded: Mapping[str, int]) -> None:
        """Excludes these, and nobody else: names or patterns, each with the round that was open then."""
        self._has_changed = self._has_changed or self._excluded.keys() != excluded.keys()
        self._excluded = dict(excluded)

    def admits(self, worker: str, keys: Sequence[bytes] = ()) -> bool:
        return not self._matching(worker) and self._others.admits(worker, keys)

    def admits_in_sum(self, worker: str, base_round: int) -> bool:
        """The same for an update in a sum for this round: one that was open when its worker was excluded still counts.

        Its shard knew nothing of it, and a sum counts as a whole or not at all.
        """
        return all(base_round <= self._excluded[pattern] for pattern in self._matching(worker)) and self._others.admits(
            worker
        )

    def reason(self, worker: str, keys: Sequence[bytes] = ()) -> str:
        return "is excluded (fl-run exclude)" if self._matching(worker) else self._others.reason(worker, keys)

    def look(self) -> bool:
        has_changed, self._has_changed = self._has_changed, False
        return self._others.look() or has_changed

    def _matching(self, worker: str) -> list[str]:
        return [pattern for pattern in self._excluded if fnmatch.fnmatchcase(worker, pattern)]
