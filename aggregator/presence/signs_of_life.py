"""Signs of life as they arrive: each is checked, and then told to all that goes by them."""

import logging
from collections.abc import Callable

from aggregator.events import Watcher, WorkerSeen
from aggregator.presence.attendance import Attendance
from aggregator.presence.conflicts import NameConflicts
from aggregator.presence.uploads import Uploads
from aggregator.senders import Admission, Refusals
from broker import Delivery
from broker.wire import Presence, Trust, decode_from
from console import MessageError

log = logging.getLogger(__name__)

_MAX_OBJECTIONS, _MAX_OBJECTIONS_OF_ONE = 1000, 10


class SignsOfLife:
    """Those of one run. ``on_patience`` takes how long workers may be silent, in seconds, each time that it grows."""

    def __init__(
        self,
        *,
        attendance: Attendance,
        uploads: Uploads,
        conflicts: NameConflicts,
        admission: Admission,
        trust: Trust,
        clock: Callable[[], float],
        on_event: Watcher,
        on_patience: Callable[[float], None],
    ) -> None:
        self._attendance, self._uploads, self._conflicts = attendance, uploads, conflicts
        self._admission, self._trust, self._clock = admission, trust, clock
        self._on_event, self._on_patience = on_event, on_patience
        self._objections: dict[str, set[str]] = {}
        """Worker -> what was logged of it."""

    def take(self, delivery: Delivery, *, refusals: Refusals) -> bool:
        """Takes a sign of life; False if it changes nothing, as of a worker that is still there.

        ``refusals``, those of the open round, log the ones that cannot be read.
        """
        try:
            message = decode_from(delivery.body, Presence, trust=self._trust)
            message.check_signer(message.header.worker)
        except MessageError as error:
            refusals.drop_sign_of_life(delivery.sender, str(error))
            return False
        presence = message.header
        if presence.worker != delivery.sender or not self._admission.admits(presence.worker):
            return False
        return self._heard(presence)

    def _heard(self, presence: Presence) -> bool:
        worker, attendance = presence.worker, self._attendance
        if presence.objection is not None:
            self._log_objection(worker, presence.objection)
        patience_s, was_noted = attendance.patience_s, worker in attendance
        is_conflict = attendance.heard(presence, now=self._clock())
        if was_noted or worker in attendance or worker in self._objections:
            self._uploads.heard(presence)
            self._on_event(WorkerSeen(presence=presence))
        if attendance.patience_s > patience_s:
            self._on_patience(attendance.patience_s)
        if is_conflict:
            self._conflicts.found(worker)
        return is_conflict or was_noted != (worker in attendance) or attendance.patience_s > patience_s

    def _log_objection(self, worker: str, objection: str) -> None:
        """Logs once why a worker does not answer; of a thousand workers at most, and a few reasons of each."""
        if worker not in self._objections and len(self._objections) >= _MAX_OBJECTIONS:
            return
        logged = self._objections.setdefault(worker, set())
        if objection not in logged and len(logged) < _MAX_OBJECTIONS_OF_ONE:
            logged.add(objection)
            log.warning("worker '%s' does not answer: %s", worker, objection)
