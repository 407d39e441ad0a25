"""How much of what does not count is kept in a round: its message, its row, its warning. The rest is only counted.

A worker sends one update for a model, so a correct worker never comes near these numbers. Names that have
had an update folded have a quota each; all others, which anybody can invent, share one.
"""

from collections.abc import Callable
from dataclasses import dataclass

MOST_OF_ONE = 20
"""Messages of one sender."""
MOST_READ_OF_ONE = 200
"""Late and repeated updates of one sender, of which the first ones are kept. Somebody may replay many dead letters of a
site, and its update for the open round is to count all the same."""
MOST_OF_STRANGERS = 100
"""Messages of all senders together that have not had an update folded in this run."""
MOST_PASSED_OVER = 10_000
"""Late and repeated updates of such senders, which were fit to be folded: a large run may have many."""
MOST_NAMED = 100
"""Senders whose dropped messages are counted by name."""
NOBODY = ""
"""Who is held responsible for forged messages; no worker has this name."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Messages of which only the number is kept."""

    sender: str | None
    """None: of several senders."""
    num_messages: int
    num_bytes: int

    def plus(self, num: int, num_bytes: int) -> "Dropped":
        """The same and so many messages more."""
        return Dropped(self.sender, self.num_messages + num, self.num_bytes + num_bytes)


class Quota:
    """The messages of one round that were not folded. Its memory is bounded, whatever names they bear.

    ``are_signed``: late and repeated updates are not held against their sender. Its signature shows who wrote them, but
    anybody who can read them can send them once more.
    """

    def __init__(self, *, is_known: Callable[[str], bool], are_signed: bool = False) -> None:
        self._is_known, self._are_signed = is_known, are_signed
        self._num_kept: dict[str, int] = {}
        self._num_fit: dict[str, int] = {}
        """Sender -> its late and repeated updates."""
        self._num_of_strangers = self._num_passed_over = 0
        self._dropped: dict[str | None, Dropped] = {}

    def is_used_up(self, sender: str) -> bool:
        """Whether so many messages of this sender did not count that its next ones are not even read."""
        is_read_enough = self._num_fit.get(sender, 0) >= MOST_READ_OF_ONE and not self._are_signed
        return self._num_kept.get(sender, 0) >= MOST_OF_ONE or is_read_enough

    @property
    def is_closed_to_strangers(self) -> bool:
        """Whether nothing more is kept of senders that have not had an update folded."""
        return self._num_of_strangers >= MOST_OF_STRANGERS

    def keep(self, sender: str) -> bool:
        """Takes a message that does not count; False if it is not to be kept, but only counted (``drop``)."""
        is_stranger = not self._is_known(sender)
        if self.is_used_up(sender) or (is_stranger and self.is_closed_to_strangers):
            return False
        self._num_kept[sender] = self._num_kept.get(sender, 0) + 1
        self._num_of_strangers += is_stranger
        return True

    def pass_over(self, sender: str) -> bool:
        """The same of an update that was fit to be folded, but late or repeated."""
        is_stranger = not self._is_known(sender)
        if is_stranger and self._num_passed_over >= MOST_PASSED_OVER:
            return False
        self._num_passed_over += is_stranger
        self._num_fit[sender] = self._num_fit.get(sender, 0) + 1
        return self._num_fit[sender] <= MOST_OF_ONE

    def drop(self, sender: str, num_bytes: int, *, num: int = 1) -> None:
        """Counts messages that are not kept, with their bytes."""
        is_kept = sender in self._num_kept or sender in self._num_fit
        is_named = sender in self._dropped or (is_kept and len(self._dropped) < MOST_NAMED)
        name = sender if is_named else None
        self._dropped[name] = self._dropped.get(name, Dropped(name, 0, 0)).plus(num, num_bytes)

    def take_dropped(self) -> list[Dropped]:
        """What was dropped since the last call, the most of one sender first."""
        dropped, self._dropped = self._dropped, {}
        return sorted(dropped.values(), key=lambda each: -each.num_messages)
