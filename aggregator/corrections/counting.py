"""What the ledger knows for a correction: since when all began at zero, who counted since, and in which round.

Rows of closed rounds do not change, so each is read once while the run goes on.
"""

from collections.abc import Callable, Sequence, Set

from aggregator.corrections.control_epoch import ControlEpoch
from aggregator.corrections.serving import step_of
from aggregator.state import FoldedUpdate, Ledger
from broker import Correction
from broker.wire import MAX_COUNTED, hash64, pack_counted, unpack_counted
from console import UnfitMessage


class Counting:
    """Of one run. Whatever it says of a closed round follows from rows that are committed with that round."""

    def __init__(self, correction: Correction, ledger: Ledger) -> None:
        self.correction, self._ledger = correction, ledger
        self._adds_up = step_of(correction) is not None
        facts = ledger.facts()
        self._first = ControlEpoch(int(facts.get("control_epoch", 0)), int(facts.get("base_round", 0)))
        self._before = unpack_counted(bytes.fromhex(facts.get("counted", "")))
        """What counted before the run was taken over, by ``hash64``."""
        self._number = -1
        """The open round that ``_last`` is for."""
        self._last: dict[int, int] = {}
        """By ``hash64``: the round of the last update that came to count."""
        self._members = _Members(ledger)

    def epoch(self, number: int) -> ControlEpoch:
        """That of an open round."""
        return ControlEpoch.of(self._ledger.step_scalars(number - 1), first=self._first)

    def population(self, number: int) -> float:
        """How many workers the server's state is of when this round begins."""
        return self._ledger.step_scalars(number - 1).get("population", 0.0)

    def counted(self, number: int) -> bytes:
        """What the head of this round says of whose updates counted last; nothing if no correction asks for it."""
        return pack_counted(self._rounds(number)) if self.correction else b""

    def _rounds(self, number: int) -> dict[int, int]:
        """By ``hash64``. It does not change while this round is open."""
        if number < self._number or self._number < 0:
            self._number, self._last = 0, dict(self._before)
        if number > self._number:
            rows = self._ledger.counted(first=self._number, before=number)
            self._last |= {hash64(worker): counted for worker, counted in rows.items()}
            self._number = number
        return self._last

    def population_with(self, number: int, folded: Sequence[FoldedUpdate]) -> int:
        """How many workers count in this epoch, those whose updates are folded in this round among them."""
        return len(self._known(number) | {update.worker for update in folded}) if self._adds_up else 0

    def lost(self, number: int, folded: Sequence[FoldedUpdate]) -> list[str]:
        """The workers, of those whose updates are folded in this round, that lost what the server's state has of them.

        If there is one, all begin anew after this round.
        """
        if not self._adds_up or not any(update.is_fresh for update in folded):
            return []
        known = self._known(number)
        return sorted(update.worker for update in folded if update.is_fresh and update.worker in known)

    def scalars(self, number: int, *, begins_anew: bool) -> dict[str, float]:
        """What is kept of the epoch with this round."""
        return self.epoch(number).after(number, begins_anew=begins_anew).scalars if self._adds_up else {}

    def _known(self, number: int) -> Set[str]:
        return self._members.between(self.epoch(number).since, number)

    def check_room(
        self,
        number: int,
        workers: Sequence[str],
        *,
        num_folded: int,
        folded: Callable[[], Sequence[FoldedUpdate]],
    ) -> None:
        """An UnfitMessage if with these workers there would be more than a head has room for.

        ``folded``, which takes time for many, is asked only where room may be short.
        """
        if not self.correction or len(self._rounds(number)) + num_folded + len(workers) <= MAX_COUNTED:
            return
        known = self._rounds(number).keys() | {hash64(update.worker) for update in folded()}
        if len(known | set(map(hash64, workers))) > MAX_COUNTED:
            raise UnfitMessage(
                f"{MAX_COUNTED:,} workers have counted in this run, and with --correction {self.correction} there is"
                " no room for more"
            )


class _Members:
    """Whose updates are folded in rounds after one and before another, which only moves forward."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._after, self._before = -1, 0
        self._workers: set[str] = set()

    def between(self, after: int, before: int) -> Set[str]:
        if after != self._after or before < self._before:
            self._after, self._before, self._workers = after, after + 1, set()
        if before > self._before:
            self._workers |= self._ledger.workers_between(self._before - 1, before)
            self._before = before
        return self._workers
