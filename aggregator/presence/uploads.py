"""Uploads that were begun. A sender that dies half way leaves a blob that no message names, to be deleted later."""

from broker.wire import Presence

_MOST_UPLOADS = 1000


class Uploads:
    """Updates that workers said they were sending. A worker that dies half way leaves a blob that no message names.

    At most 1,000 are noted at a time: blobs that are not deleted here go by themselves after a week.
    """

    def __init__(self) -> None:
        self._rounds: dict[str, int] = {}

    def heard(self, presence: Presence) -> None:
        if presence.state == "sending" and (presence.worker in self._rounds or len(self._rounds) < _MOST_UPLOADS):
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
