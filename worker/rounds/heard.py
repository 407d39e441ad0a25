"""The models that a worker hears of. Only the newest is of use to it."""

import logging

from broker import Delivery
from broker.wire import Buffer, ModelHead, Trust, decode_from
from console import MessageError
from worker.state import Positions

log = logging.getLogger(__name__)


class Heard:
    """The newest head of those that came, and the one that was last taken up.

    ``name`` is the worker's own; ``run`` the run that it waits for, None: any.
    """

    def __init__(self, *, name: str, run: str | None, trust: Trust, positions: Positions) -> None:
        self._name, self._run, self._trust, self._positions = name, run, trust, positions
        self._newest: tuple[ModelHead, Buffer] | None = None
        self.done: ModelHead | None = None
        """The head that was last taken up. Where it came to nothing, the one before it is set again."""
        self._skipped_run_id: str | None = None
        self._was_told_of_conflict = False

    @property
    def has_news(self) -> bool:
        """Whether there is a head that has not been taken up."""
        return self._newest is not None

    def take(self) -> tuple[ModelHead, Buffer]:
        """The newest head, with what came behind it, taken up by this."""
        assert self._newest is not None
        (self.done, payload), self._newest = self._newest, None
        return self.done, payload

    def hear(self, delivery: Delivery) -> None:
        """Remembers a model if it is newer than all before it."""
        try:
            message = decode_from(delivery.body, ModelHead, trust=self._trust)
        except MessageError as error:
            log.warning("a message on the model stream is dropped: %s", error)
            return
        head = message.header
        if self._run is not None and head.run != self._run:
            self._skip_run(head)
            return
        if message.signer is not None and not self._is_news(head):
            return
        self._mind_conflict(head)
        known = self._newest[0] if self._newest else self.done
        if known is None or known.run_id != head.run_id or head.position > known.position:
            self._newest = (head, message.payload)

    def has_ended(self, head: ModelHead) -> bool:
        """Whether an update for this head came too late by now."""
        if self._newest is None:
            return False
        newest = self._newest[0]
        if newest.run_id != head.run_id or newest.is_finished:
            return True
        if newest.epoch != head.epoch and newest.round < head.round:
            return True  # an aggregator took over and went back
        return newest.round - head.round > newest.max_staleness

    def _is_news(self, head: ModelHead) -> bool:
        """Whether a signed head is not from before the newest one accepted, which an attacker could send once more."""
        replayed = self._positions.replayed(head)
        if replayed:
            log.warning("a model is dropped: %s", replayed)
            return False
        self._positions.accept(head)
        return True

    def _skip_run(self, head: ModelHead) -> None:
        if self._skipped_run_id != head.run_id:
            self._skipped_run_id = head.run_id
            log.info("run %s is on the queue; waiting for run '%s'", head.run_id, self._run)

    def _mind_conflict(self, head: ModelHead) -> None:
        if self._name in head.name_conflicts and not self._was_told_of_conflict:
            self._was_told_of_conflict = True
            log.warning(
                "another worker goes by the name '%s' too; each round counts only one of the two:"
                " stop one, or start it with another --name",
                self._name,
            )
