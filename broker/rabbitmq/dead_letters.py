"""The dead letters of a federation, as people see them: read without loss, then replayed or dropped.

Reading acks nothing: whatever is not replayed or dropped goes back in the order in which it came. RabbitMQ puts it
ahead of letters not yet read, and behind those read and given back earlier; so a queue keeps its order as long as it
is read to its end.

Only what came over the dead-letter exchange says who it is from. There, aggregators write what they set aside, and the
broker moves what was delivered too often; no worker's user may write to it, or to the queue.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from pika.adapters.blocking_connection import BlockingChannel

from broker.addresses import addresses_of
from broker.patience import Patience
from broker.rabbitmq.links import Link, Turns
from broker.rabbitmq.properties import REASON_HEADER, SENDER_HEADER, SET_ASIDE_KEY, durable
from broker.settings import BrokerSettings, soon
from broker.transport import ANSWERS_WITHIN_S
from broker.wire import Topology, UpdateHead, decode, is_name_of, sender_of, update_key
from console import BrokerError, MalformedMessage, QueueMissing, UnfitMessage

T = TypeVar("T")

ID_DIGITS = 12
_MAX_KEY_BYTES = 255

_HELD_BY_A_CHANNEL = 32
"""RabbitMQ takes back in order what one channel holds, up to this many messages."""

MAX_LIMIT = 50_000
"""This many letters fit into the 2047 channels that a connection may have by default."""

_WHY_BY_BROKER = {
    "delivery_limit": "delivered too often; perhaps it crashes the aggregator",
    "rejected": "rejected",
    "expired": "expired",
    "maxlen": "the queue was full",
}
"""Reasons in ``x-death``, for messages that the broker itself set aside -> in our words."""
_NO_REASON = "no reason given"


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known of a dead letter, without its body."""

    id: str
    """The same whenever it is read. Letters with the same sender, reason and body share it."""
    sender: str | None
    """The worker it is from, according to the aggregator or the broker; None if unknown."""
    reason: str
    set_aside_at: datetime | None
    num_bytes: int
    """Size of the message."""
    round: int | None
    """None if its header does not decode."""
    blob_bytes: int | None
    """The announced size of its body, if that is in a blob; otherwise None."""

    @property
    def can_be_replayed(self) -> bool:
        """False if no routing key would lead it to the results queue."""
        sender = self.sender
        return sender is not None and "." not in sender and len(update_key(sender).encode()) <= _MAX_KEY_BYTES


@dataclass(frozen=True, slots=True)
class Opened:
    """A dead letter with its body. It stays on the queue until it is replayed or dropped."""

    letter: Letter
    body: bytes
    channel: BlockingChannel
    tag: int
    head: UpdateHead | None
    problem: str
    """Why ``head`` is None."""


class DeadLetters:
    """The letters in ``<queue>.dead``, over a connection of its own, inside a ``with``.

    When the connection is lost, all letters are back on the queue, and every method raises BrokerUnreachable.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._topology = Topology(settings.queue)
        self._readers: list[BlockingChannel] = []
        self._patience = Patience.of(ANSWERS_WITHIN_S)
        """With the next letter: begun anew with each."""
        self.num_left = 0
        """How many letters come after the last one read."""

    def __enter__(self) -> Self:
        turns = Turns(addresses_of(self._settings.broker))
        settings = soon(self._settings)
        self._patience = Patience.of(ANSWERS_WITHIN_S)
        self._link = Link(settings, "dead letters", turns=turns, waits_for_queue=False, is_mended=False, is_told=False)
        try:
            self._do(lambda link: None)  # raises why there is no connection
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._do(self._give_back)
        except BrokerError:  # what a lost connection held is back on the queue anyway
            if error is None:
                raise
        finally:
            self._link.close()  # returns once the broker has done everything before it

    def read(self, limit: int) -> Iterator[Opened]:
        """Up to ``limit`` dead letters, oldest first, one in memory at a time. QueueMissing if there is no queue."""
        for index in range(limit):
            channel, method, properties, body = self._next(index)
            if method is None:
                self.num_left = 0
                return
            self.num_left = int(method.message_count)
            sender, reason, set_aside_at = self._origin(method, properties)
            head, problem = _head_of(body)
            letter = Letter(
                id=_id_of(sender or "", reason, body),
                sender=sender,
                reason=reason,
                set_aside_at=set_aside_at,
                num_bytes=len(body),
                round=head.round if head else None,
                blob_bytes=head.num_bytes if head and head.blob else None,
            )
            yield Opened(letter, body, channel, method.delivery_tag, head, problem)

    def replay(self, opened: Opened) -> None:
        """Publishes it as if its worker had sent it now, and acks it when the broker has it on the results queue."""
        sender = opened.letter.sender
        if sender is None or not opened.letter.can_be_replayed:
            raise UnfitMessage(f"{opened.letter.id} does not say which worker it is from; it can only be dropped")
        key = update_key(sender)

        def do(link: Link) -> None:
            link.publish(self._topology.inbound, key, opened.body, durable())
            opened.channel.basic_ack(opened.tag)

        self._do(do)

    def drop(self, opened: Opened) -> None:
        """Deletes the letter's own blob, if it has one, and acks the letter."""
        blob = self._own_blob(opened)

        def do(link: Link) -> None:
            if blob is not None:
                link.channel("delete").queue_delete(blob)
            opened.channel.basic_ack(opened.tag)

        self._do(do)

    def has_blob(self, name: str) -> bool:
        """Whether the broker still has this blob."""
        try:
            self._do(lambda link: link.channel("check").queue_declare(name, passive=True))
        except QueueMissing:
            return False
        return True

    def _next(self, index: int) -> tuple[BlockingChannel, Any, Any, bytes]:
        """(channel, method, properties, body); the method is None if there are no more letters."""
        if index % _HELD_BY_A_CHANNEL == 0:
            self._readers.append(self._do(partial(Link.channel, role=f"read {index}", confirms=False)))
        channel = self._readers[-1]
        found = self._do(lambda link: channel.basic_get(self._topology.dead))
        self._patience = Patience.of(ANSWERS_WITHIN_S)
        return channel, *found

    def _do(self, job: Callable[[Link], T]) -> T:
        """Does the job once: letters read over a lost connection are no longer ours to act on."""
        return self._link.call(job, is_retried=False, within_s=self._patience.left_s)

    def _give_back(self, link: Link) -> None:
        """One channel after the other, which keeps the order."""
        for channel in self._readers:
            if channel.is_open:
                channel.basic_nack(0, multiple=True, requeue=True)
                channel.close()

    def _own_blob(self, opened: Opened) -> str | None:
        """The blob it names; None unless that is its own sender's blob."""
        head, sender = opened.head, opened.letter.sender
        if head is None or head.blob is None or sender is None:
            return None
        own = self._topology.update_blob(sender, head.run_id, head.round)
        return head.blob.name if is_name_of(head.blob.name, own) else None

    def _origin(self, method: Any, properties: Any) -> tuple[str | None, str, datetime | None]:
        """(sender, reason, when).

        What the broker moved still has the headers that its sender wrote, so only the key and what the broker wrote
        count there. What came another way than over the exchange may be from anybody.
        """
        headers: dict[str, Any] = properties.headers or {}
        key = _text(method.routing_key) or ""
        if method.exchange != self._topology.dead_letters:
            return None, _text(headers.get(REASON_HEADER)) or _NO_REASON, _moment(properties.timestamp)
        if key == SET_ASIDE_KEY:
            reason = _text(headers.get(REASON_HEADER)) or _NO_REASON
            return _text(headers.get(SENDER_HEADER)), reason, _moment(properties.timestamp)
        death = _first(headers.get("x-death"))
        death = death if isinstance(death, dict) else {}
        why = _text(death.get("reason")) or _NO_REASON
        when = death.get("time")
        return (
            sender_of(key) if key.startswith(update_key("")) else None,
            _WHY_BY_BROKER.get(why, why),
            when if isinstance(when, datetime) else _moment(properties.timestamp),
        )


def _head_of(body: bytes) -> tuple[UpdateHead | None, str]:
    try:
        return decode(body, UpdateHead)[0], ""
    except MalformedMessage as error:
        return None, str(error)


def _id_of(sender: str, reason: str, body: bytes) -> str:
    digest = hashlib.sha256()
    for part in (sender.encode(), reason.encode(), body):
        digest.update(len(part).to_bytes(8, "little"))  # so that no two different letters give the same bytes
        digest.update(part)
    return digest.hexdigest()[:ID_DIGITS]


def _text(value: object) -> str | None:
    """A header's value as text; pika leaves what is not UTF-8 as bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str) else None


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _moment(timestamp: int | None) -> datetime | None:
    """An AMQP timestamp as a moment; None if it cannot be one: publishers can write any number there."""
    if timestamp is None:
        return None
    with contextlib.suppress(OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(timestamp, UTC)
    return None
