"""Who is there: workers by their last sign of life. It decides shares, warnings and tidying, never correctness."""

import itertools
from dataclasses import dataclass

from broker.wire import Presence

ALIVE_S = 35.0
"""A worker not heard of for so long is gone; it says something every 10 s."""


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    instance: str
    earlier_instance: str | None


class Attendance:
    """The workers that were heard of lately, the longest silent one first."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._num_expected, self._expected_until = 0, 0.0

    def note(self, presence: Presence, *, now: float) -> bool:
        """Takes a sign of life; True if it shows that two workers go by this name.

        A restarted worker has a new instance and the old one stays silent; two at a time speak in turn.
        """
        worker, instance = presence.worker, presence.instance
        last = self._seen.get(worker)
        if presence.state == "leaving":
            if last is not None and last.instance == instance:
                del self._seen[worker]
            return False
        earlier = None
        if last is not None:
            earlier = last.earlier_instance if last.instance == instance else last.instance
            del self._seen[worker]
        self._seen[worker] = _Seen(now, instance, earlier)
        return last is not None and last.instance != instance and last.earlier_instance == instance

    def expect(self, number: int, *, now: float) -> None:
        """Takes so many workers for present until they had time to say so, after a restart."""
        self._num_expected, self._expected_until = number, now + ALIVE_S

    def num_present(self, *, now: float) -> int:
        """How many workers are there; the others are forgotten."""
        while self._seen:
            worker, seen = next(iter(self._seen.items()))
            if now - seen.at <= ALIVE_S:
                break
            del self._seen[worker]
        if now >= self._expected_until:
            self._num_expected = 0
        return max(len(self._seen), self._num_expected)

    def next_change(self) -> float | None:
        """When the number falls next if everybody stays silent."""
        times = [seen.at + ALIVE_S for seen in itertools.islice(self._seen.values(), 1)]
        return min(times + ([self._expected_until] if self._num_expected else []), default=None)

    def names(self) -> list[str]:
        return sorted(self._seen)


class Uploads:
    """Updates that workers said they were sending. Who dies half way leaves a blob behind that no message names."""

    def __init__(self) -> None:
        self._rounds: dict[str, int] = {}

    def note(self, presence: Presence) -> None:
        if presence.state == "sending":
            self._rounds[presence.worker] = presence.round

    def arrived(self, worker: str) -> None:
        self._rounds.pop(worker, None)

    def abandoned(self, *, before: int) -> list[tuple[str, int]]:
        """(worker, round) of those for rounds before ``before``; they are told once."""
        found = [(worker, number) for worker, number in self._rounds.items() if number < before]
        for worker, _ in found:
            del self._rounds[worker]
        return found


_GAP = 64
"""Partial sums of one shard that may be missing in between; a number far above the last is no partial's."""


class PartialUploads:
    """The partial sums of a round. A partial that dies while it sends one leaves a blob that no message names.

    ``num_before`` are the updates that were in before a restart; so many partial sums may have been in, too.
    """

    def __init__(self, round_number: int, *, num_shards: int, num_before: int) -> None:
        self.round = round_number
        self._next = dict.fromkeys(range(num_shards), 0)
        self._num_before = num_before

    def arrived(self, shard: int, round_number: int, sequence: int) -> None:
        following = self._next.get(shard)
        if round_number == self.round and following is not None and sequence <= following + self._num_before + _GAP:
            self._next[shard] = max(self._next[shard], sequence + 1)

    def unknown(self) -> list[tuple[int, int]]:
        """(shard, sequence) of those that may have been begun and did not arrive."""
        return [
            (shard, sequence)
            for shard, following in self._next.items()
            for sequence in range(0 if self._num_before else following, following + self._num_before + 1)
        ]
