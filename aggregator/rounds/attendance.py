"""How many workers are present, by their signs of life. It decides shares, warnings and cleanup, never correctness."""

import math
from dataclasses import dataclass

from aggregator.rounds.present import Present
from broker.wire import PRESENCE_EVERY_S, Presence

_STEP_S = 3.5 * PRESENCE_EVERY_S


@dataclass(frozen=True, slots=True)
class _Seen:
    instance: str
    earlier_instance: str | None


class Attendance:
    """The workers heard from recently. Each says how often it sends signs of life, and so when it counts as gone."""

    def __init__(self) -> None:
        self._seen: Present[_Seen] = Present()
        self._num_expected, self._expected_until = 0, 0.0
        self.patience_s = _STEP_S
        """The longest that any worker so far may be silent, in seconds; it grows in steps, as each one is recorded."""

    def heard(self, presence: Presence, *, now: float) -> bool:
        """Takes a sign of life; True if it shows that two workers use this name.

        A restarted worker has a new instance, and the old one stays silent; two at the same time alternate.
        """
        worker, instance = presence.worker, presence.instance
        last = self._seen.get(worker)
        if presence.state == "leaving" or presence.objection is not None:  # then nobody waits for it
            if last is not None and last.instance == instance:
                self._seen.leave(worker)
            return False
        earlier = None
        if last is not None:
            earlier = last.earlier_instance if last.instance == instance else last.instance
        self._seen.heard(worker, _Seen(instance, earlier), until=now + presence.gone_after_s)
        self.patience_s = max(self.patience_s, _STEP_S * math.ceil(presence.gone_after_s / _STEP_S))
        return last is not None and last.instance != instance and last.earlier_instance == instance

    def expect(self, number: int, *, now: float, patience_s: float = 0.0) -> None:
        """After a restart, counts ``number`` workers as present until they have had time to send a sign of life.

        ``patience_s`` is its value before the restart; 0: not known.
        """
        self.patience_s = max(self.patience_s, patience_s)
        self._num_expected, self._expected_until = number, now + self.patience_s

    def num_present(self, *, now: float) -> int:
        """How many workers are present; the others are forgotten."""
        self._seen.forget_silent(now=now)
        if now >= self._expected_until:
            self._num_expected = 0
        return max(len(self._seen), self._num_expected)

    def next_change(self) -> float | None:
        """When the number next falls if every worker stays silent."""
        times = [self._seen.next_at(), self._expected_until if self._num_expected else None]
        return min((at for at in times if at is not None), default=None)

    def names(self) -> list[str]:
        return sorted(self._seen)


class Uploads:
    """Updates that workers said they were sending. A worker that dies half way leaves a blob that no message names."""

    def __init__(self) -> None:
        self._rounds: dict[str, int] = {}

    def heard(self, presence: Presence) -> None:
        if presence.state == "sending":
            self._rounds[presence.worker] = presence.round

    def arrived(self, worker: str) -> None:
        self._rounds.pop(worker, None)

    def abandoned(self, *, before: int) -> list[tuple[str, int]]:
        """(worker, round) of those for rounds before ``before``; each is returned only once."""
        found = [(worker, number) for worker, number in self._rounds.items() if number < before]
        for worker, _ in found:
            del self._rounds[worker]
        return found


_GAP = 64
"""How many partial sums of one shard may be missing in between; no partial sends a number far above the last one."""


class PartialUploads:
    """The partial sums of a round. A partial that dies while sending one leaves a blob that no message names.

    ``num_before`` updates were folded before a restart; up to as many partial sums may have arrived.
    """

    def __init__(self, round_number: int, *, num_shards: int, num_before: int) -> None:
        self.round = round_number
        self._next = dict.fromkeys(range(num_shards), 0)
        self._num_before = num_before

    def arrived(self, shard: int, round_number: int, sequence: int) -> None:
        following = self._next.get(shard)
        if round_number == self.round and following is not None and sequence <= following + self._num_before + _GAP:
            self._next[shard] = max(self._next[shard], sequence + 1)

    @property
    def are_few(self) -> bool:
        """Whether just one sum a shard is unknown, not, as after a restart, every one that there may have been."""
        return self._num_before == 0

    def unknown(self) -> list[tuple[int, int]]:
        """(shard, sequence) of the sums that may have been begun but did not arrive."""
        return [
            (shard, sequence)
            for shard, following in self._next.items()
            for sequence in range(0 if self._num_before else following, following + self._num_before + 1)
        ]
