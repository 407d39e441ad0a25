"""What happens to messages that do not count: set aside with their reason or, beyond the quota of a round, dropped."""

import contextlib
import logging
import time
from collections.abc import Callable

from aggregator.senders.quota import MOST_OF_ONE, NOBODY, Quota
from aggregator.state import UpdateRow, Verdict
from broker import Delivery, Transport, beginning_of
from console import BrokerError, DamagedBody, ForgedMessage, MessageError, ReplayedMessage, UnfitMessage

log = logging.getLogger(__name__)

_MOST_BYTES = 64 * 2**20
"""Of messages set aside in one round; of those beyond, only the beginning is kept."""
_MOST_DEAD = 10_000
"""Dead letters from which on nothing is added to them: somebody has to look at them first."""

_MOST_SIGNS_LOGGED = 10


def is_by_its_sender(error: MessageError, *, are_signed: bool) -> bool:
    """Whether a bad message is the doing of the one that it names as its sender, as far as can be known.

    Where messages are signed, only what that one has signed for the model of the open round: all else can be sent by
    anybody, who would otherwise have an honest worker ignored.
    """
    if not are_signed:
        return not isinstance(error, ForgedMessage)
    return isinstance(error, UnfitMessage) and not isinstance(error, DamagedBody | ReplayedMessage)


class Refusals:
    """The refusals of one round. ``on_row`` takes the ledger rows; ``dead`` is the queue of the dead letters.

    ``is_known``: whether a name has had an update folded in this run. ``are_signed``: as of ``Quota``.
    """

    def __init__(
        self,
        round_number: int,
        transport: Transport,
        *,
        dead: str,
        is_known: Callable[[str], bool],
        on_row: Callable[[UpdateRow], None],
        are_signed: bool = False,
    ) -> None:
        self._round, self._transport, self._dead, self._on_row = round_number, transport, dead, on_row
        self._quota = Quota(is_known=is_known, are_signed=are_signed)
        self._bytes_left = _MOST_BYTES
        self._has_room: bool | None = None
        """Whether dead letters may still be added; None: not looked up in this round."""
        self._told: set[str] = set()
        self._num_signs_dropped = 0

    def ignores(self, delivery: Delivery) -> bool:
        """Whether its sender is ignored for the rest of the round; the message is then dropped, unread."""
        sender = delivery.sender
        if not self._quota.is_used_up(sender):
            return False
        self._tell(
            sender,
            "%d messages from '%s' did not count in round %d; dropping its others unread until the next round",
            MOST_OF_ONE,
            sender,
            self._round,
        )
        self._transport.ignore(sender)
        self._drop(delivery, sender)
        return True

    def passes_over(self, delivery: Delivery) -> bool:
        """Counts a late or repeated update; False if it is to leave no row of its own."""
        is_kept = self._quota.pass_over(delivery.sender)
        if not is_kept:
            self._quota.drop(delivery.sender, delivery.num_bytes)
        return is_kept

    def drop_sign_of_life(self, sender: str, reason: str) -> None:
        """Logs why a sign of life counts for nothing; of the first ones in a round only."""
        self._num_signs_dropped += 1
        if self._num_signs_dropped <= _MOST_SIGNS_LOGGED:
            log.warning("sign of life from '%s' dropped: %s", sender, reason)

    def refuse(self, delivery: Delivery, reason: str, *, is_by_sender: bool = True) -> bool:
        """Sets a message aside with its reason, or drops it: False. Either way it comes no more.

        ``is_by_sender``: whether the one that it names as its sender is held responsible, see ``is_by_its_sender``.
        """
        sender = delivery.sender
        responsible = sender if is_by_sender else NOBODY
        if not self._quota.keep(responsible):
            self._tell(
                "",
                "too many messages of senders without an update in this run, or forged ones, came in round %d; others"
                " like them are only counted until the next round",
                self._round,
            )
            self._drop(delivery, responsible)
            return False
        kept = self._kept_of(delivery)
        if kept.cut_from:
            reason += f"; of its {kept.cut_from:,} bytes the first {len(kept.body):,} are kept"
        fields = {"round": self._round, "worker": sender, "verdict": Verdict.REFUSED, "reason": reason}
        place = f"set aside in {self._dead}" if self._is_there_room() else "dropped"
        log.warning("update from '%s' %s: %s", sender, place, reason, extra=fields)
        self._on_row(self._row(reason, sender=sender, num_bytes=delivery.num_bytes))
        if self._is_there_room():
            self._transport.set_aside(kept, reason)
        else:
            self._transport.ack([delivery])
        return True

    def record_dropped(self) -> None:
        """Gives a row to each sender of dropped messages, and one to all others together."""
        with contextlib.suppress(BrokerError):  # they are gone, and only their number is lost with the broker
            for sender, (num, num_bytes) in self._transport.heed_all().items():
                self._quota.drop(sender, num_bytes, num=num)
        for dropped in self._quota.take_dropped():
            reason = f"{dropped.num_messages:,} more messages that did not count; dropped, and most of them unread"
            row = self._row(
                reason, sender=dropped.sender or None, num_bytes=dropped.num_bytes, num=dropped.num_messages
            )
            self._on_row(row)

    def _row(self, reason: str, *, sender: str | None, num_bytes: int, num: int = 1) -> UpdateRow:
        return UpdateRow(
            received_at=time.time(),
            round=self._round,
            verdict=Verdict.REFUSED,
            reason=reason,
            worker=sender,
            num_bytes=num_bytes,
            num_messages=num,
        )

    def _kept_of(self, delivery: Delivery) -> Delivery:
        """What is to be set aside of a message: all of it, as long as there is room for whole ones in this round."""
        kept = delivery if len(delivery.body) <= self._bytes_left else beginning_of(delivery)
        self._bytes_left = max(0, self._bytes_left - len(kept.body))
        return kept

    def _drop(self, delivery: Delivery, responsible: str) -> None:
        self._quota.drop(responsible, delivery.num_bytes)
        self._transport.drop(delivery)

    def _is_there_room(self) -> bool:
        if self._has_room is None:
            queued = self._transport.queued([self._dead]).get(self._dead)
            self._has_room = queued is None or queued.num_waiting < _MOST_DEAD
            if not self._has_room:
                log.warning(
                    "%s holds %d messages, and more are not added: look at them with fl-dead, replay or drop them",
                    self._dead,
                    _MOST_DEAD,
                )
        return self._has_room

    def _tell(self, sender: str, words: str, *values: object) -> None:
        """Says once in a round that messages are dropped: of one sender, or of all strangers ('')."""
        if sender not in self._told:
            self._told.add(sender)
            log.warning(words, *values, extra={"round": self._round, "worker": sender})
