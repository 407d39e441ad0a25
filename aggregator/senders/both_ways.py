"""Workers whose updates came by themselves and in a sum of their shard.

A sum is refused as a whole if one of its updates came by itself and is in already. A worker that sends its update both
ways would so keep out all others of its shard, in every round.
"""

from collections.abc import Iterable

from console import UnfitMessage

_MOST_NOTED = 1000


class BothWays:
    """Those because of whose own updates a sum was refused."""

    def __init__(self) -> None:
        self._workers: set[str] = set()

    def note(self, workers: Iterable[str]) -> None:
        """A sum was refused because these were in already."""
        if len(self._workers) < _MOST_NOTED:
            self._workers.update(workers)

    def check_alone(self, worker: str) -> None:
        """An UnfitMessage if this worker's update, which came by itself, would keep out a sum again."""
        if worker in self._workers:
            raise UnfitMessage(
                "it came by itself and not in a sum of its shard; an earlier one of this worker came both ways, and"
                " the sum could not count"
            )
