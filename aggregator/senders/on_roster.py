"""Which workers may count by the roster: those of its sites, with keys that are not revoked."""

from collections.abc import Sequence

from aggregator.senders.admission import Admission
from identities import Rosters


class OnRoster:
    """Admits the workers of sites on the roster, as far as ``others`` admits them, too."""

    def __init__(self, rosters: Rosters, others: Admission) -> None:
        self._rosters, self._others = rosters, others
        self._roster = rosters.current()
        times = [each.looks_every_s for each in (rosters, others) if each.looks_every_s is not None]
        self.looks_every_s = min(times, default=None)

    def admits(self, worker: str, keys: Sequence[bytes] = ()) -> bool:
        return self._roster.admits(worker, keys) and self._others.admits(worker, keys)

    def reason(self, worker: str, keys: Sequence[bytes] = ()) -> str:
        if not self._roster.admits(worker):
            return "is not on the roster"
        if not self._roster.admits(worker, keys):
            return "is on the roster, but not the key that its update is signed with"
        return self._others.reason(worker, keys)

    def look(self) -> bool:
        before, self._roster = self._roster, self._rosters.current()
        have_others_changed = self._others.look()
        return have_others_changed or self._roster is not before


def admission_by(rosters: Rosters | None, others: Admission) -> Admission:
    """Who may count by the roster and by ``others``; without a roster, by ``others`` alone."""
    return others if rosters is None else OnRoster(rosters, others)
