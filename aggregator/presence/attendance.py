"""How many workers are present, by their signs of life. It decides shares, warnings and cleanup, never correctness.

Anybody can send signs of life under invented names, and a quorum that is a share would wait for all of them. So a name
that has never answered counts for a limited time only: for one deadline since its first sign of life. Each time that
this was in vain, the next such name has half as long. A worker counts again as soon as it answers.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from aggregator.presence.present import Present
from broker.wire import PRESENCE_EVERY_S, Presence

_STEP_S = 3.5 * PRESENCE_EVERY_S
_SLACK_S, _LEAST_PATIENCE_S = 1.0, 1e-3

MOST_PRESENT = 10_000
"""Names that count as present without ever having answered, and as many that do not count; others are not noted."""


@dataclass(frozen=True, slots=True)
class _Seen:
    instance: str
    earlier_instance: str | None


class Attendance:
    """The workers heard from recently. Each says how often it sends signs of life, and so when it counts as gone.

    ``deadline_s`` is that of a round (None: no deadline, and newcomers count for as long as they are there).
    """

    def __init__(self, *, deadline_s: float | None = None) -> None:
        self._deadline_s = math.inf if deadline_s is None else deadline_s
        self._counted: Present[_Seen] = Present()
        self._waived: Present[_Seen] = Present()
        """Those that are present but do not count."""
        self._newcomers: Present[None] = Present()
        """Those that count without having answered yet, and until when."""
        self._num_in_vain = 0
        """How many names in a row counted without ever answering."""
        self._answered: dict[str, bool] = {}
        """Worker -> whether an update of it was folded, of all that ever sent one that was fit to be."""
        self._num_expected, self._expected_until = 0, 0.0
        self._num_expected_chosen = 0
        self._somebody_since: float | None = None
        """Since when there has been at least one that counts; None: there is none."""
        self.patience_s = _STEP_S
        """The longest that any worker so far may be silent, in seconds; it grows in steps, as each one is recorded."""

    def __contains__(self, worker: str) -> bool:
        """Whether its signs of life are noted."""
        return worker in self._counted or worker in self._waived

    def heard(self, presence: Presence, *, now: float) -> bool:
        """Takes a sign of life; True if it shows that two workers use this name.

        A restarted worker has a new instance, and the old one stays silent; two at the same time alternate.
        """
        worker, instance = presence.worker, presence.instance
        noted = self._noted_in(worker)
        last = noted.get(worker)
        if presence.state == "leaving" or presence.objection is not None:  # then nobody waits for it
            if last is not None and last.instance == instance:
                noted.leave(worker)
                self._is_gone(worker)
            return False
        if last is None and not self._has_room(noted, worker):
            return False
        earlier = None
        if last is not None:
            earlier = last.earlier_instance if last.instance == instance else last.instance
        elif noted is self._counted and worker not in self._answered:
            self._newcomers.heard(worker, None, until=now + self._patience_with_newcomers_s)
        noted.heard(worker, _Seen(instance, earlier), until=now + presence.gone_after_s)
        self.patience_s = max(self.patience_s, _STEP_S * math.ceil(presence.gone_after_s / _STEP_S))
        return last is not None and last.instance != instance and last.earlier_instance == instance

    def _noted_in(self, worker: str) -> Present[_Seen]:
        """Where its signs of life are, or are to be, noted."""
        if worker in self._counted or worker in self._answered:
            return self._counted
        is_waived = worker in self._waived or len(self._newcomers) >= MOST_PRESENT
        return self._counted if self._patience_with_newcomers_s and not is_waived else self._waived

    def _has_room(self, noted: Present[_Seen], worker: str) -> bool:
        return noted is self._counted or len(noted) < MOST_PRESENT

    @property
    def _patience_with_newcomers_s(self) -> float:
        """None worth speaking of is none. The slack lets a round that is open now close at its own deadline."""
        patience_s = self._deadline_s * 0.5 ** min(self._num_in_vain, 100)
        return patience_s + _SLACK_S if patience_s > _LEAST_PATIENCE_S else 0.0

    def answered(self, worker: str, *, is_folded: bool) -> None:
        """Notes that this worker sent an update that was fit to be folded: from now on it counts while present."""
        self._answered[worker] = self._answered.get(worker, False) or is_folded
        if worker in self._newcomers:
            self._newcomers.leave(worker)
            self._num_in_vain = 0
        if worker in self._waived:
            self._waived.move_to(self._counted, worker)

    def recall(self, answered: Mapping[str, bool]) -> None:
        """After a restart, what ``answered`` was told before: worker -> whether an update of it was folded."""
        self._answered.update(answered)

    def has_folded(self, worker: str) -> bool:
        """Whether an update of this worker has been folded in this run."""
        return self._answered.get(worker, False)

    def expect(self, number: int, *, now: float, patience_s: float = 0.0, num_chosen: int = 0) -> None:
        """After a restart, counts ``number`` workers as present until they have had time to send a sign of life.

        ``num_chosen`` of them take part in the open round. ``patience_s`` is its value before the restart; 0: not
        known.
        """
        self.patience_s = max(self.patience_s, patience_s)
        self._num_expected, self._expected_until = number, now + self.patience_s
        self._num_expected_chosen = num_chosen

    def keep_only(self, admits: Callable[[str], bool]) -> None:
        """Forgets the workers that are not admitted."""
        for noted in (self._counted, self._waived):
            for worker in [worker for worker in noted if not admits(worker)]:
                noted.leave(worker)
                self._newcomers.leave(worker)

    def num_present(self, *, now: float) -> int:
        """How many workers are present and count; those that are gone are forgotten."""
        for worker in self._newcomers.forget_silent(now=now):
            self._num_in_vain += 1
            if worker in self._counted:
                self._counted.move_to(self._waived, worker)
        for worker in self._counted.forget_silent(now=now):
            self._is_gone(worker)
        self._waived.forget_silent(now=now)
        if now >= self._expected_until:
            self._num_expected = self._num_expected_chosen = 0
        if not self._counted:
            self._somebody_since = None
        elif self._somebody_since is None:
            self._somebody_since = now
        return max(len(self._counted), self._num_expected)

    def choose(self, is_chosen: Callable[[str], bool]) -> None:
        """Has ``num_chosen`` count those of whom this is true, a worker's name given."""
        self._counted.look_for(is_chosen)

    def num_chosen(self, *, now: float) -> int:
        """How many of the workers present and counting are chosen; after a restart at least as many as before it."""
        self.num_present(now=now)
        return max(len(self._counted.found), 0 if self._has_all_expected else self._num_expected_chosen)

    @property
    def _has_all_expected(self) -> bool:
        """Whether as many have been heard of as were present before a restart."""
        return len(self._counted) >= self._num_expected

    def is_known(self, *, now: float) -> bool:
        """Whether those that are there have had time to say so: some are heard of, and for long enough."""
        self.num_present(now=now)
        since = self._somebody_since
        return self._has_all_expected and since is not None and now >= since + PRESENCE_EVERY_S

    def known_at(self, *, now: float) -> float | None:
        """When ``is_known`` may become true; None if that takes a sign of life, or it is true."""
        times = [] if self._has_all_expected else [self._expected_until]
        times += [] if self._somebody_since is None else [self._somebody_since + PRESENCE_EVERY_S]
        return min((at for at in times if at > now), default=None)

    def _is_gone(self, worker: str) -> None:
        if worker in self._newcomers:
            self._newcomers.leave(worker)
            self._num_in_vain += 1

    def next_change(self) -> float | None:
        """When the number next falls if every worker stays silent."""
        expected_until = self._expected_until if self._num_expected else None
        times = [self._counted.next_at(), self._newcomers.next_at(), expected_until]
        return min((at for at in times if at is not None and at < math.inf), default=None)

    def num_among(self, workers: Iterable[str]) -> int:
        """How many of these are present and count, or may be so shortly after a restart."""
        is_early = self._num_expected > 0
        return sum(1 for worker in workers if is_early or worker in self._counted)

    def names(self) -> list[str]:
        """The workers that are present and count."""
        return sorted(self._counted)
