"""Bodies in streams of their own: written part by part, and read again beside everything else."""

import logging
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker

from broker.rabbitmq.links import Kind, Link, of_channel
from broker.rabbitmq.properties import PART_HEADER, durable
from broker.rabbitmq.queues import BLOB
from broker.transport import BlobNews
from broker.wire import Topology
from console import BlobLost, BrokerFault, BrokerRefused, BrokerUnreachable, QueueMissing

log = logging.getLogger(__name__)

_LOCKED, _UNFIT = 405, 406
_DECLARE = "declare"
_PREFETCH = 2
_TRIES_HERE, _SETTLES_S = 3, 0.3
"""How often one node is asked for a blob that it cannot give just now, and the pauses between."""
_PARTS_ON_THEIR_WAY = 1
"""Parts that wait for the writer, besides the one it is sending, while the next is prepared."""


class Making:
    """A job that makes a new, empty stream of this name, filled by way of the exchange; False if another connection
    holds a queue of this name for itself.

    If the connection is lost meanwhile, as its node died, the stream may be half made. On a cluster that goes on
    without the node, RabbitMQ 4 answers the deletion of such a stream only after a minute, with an error; so when the
    job is done again there, it raises a BrokerFault at once, and the blob gets another name.
    """

    def __init__(self, topology: Topology, name: str, *, is_of_cluster: bool) -> None:
        self._topology, self._name, self._is_of_cluster = topology, name, is_of_cluster
        self._may_be_half_made = False

    def __call__(self, link: Link) -> bool:
        if self._may_be_half_made and self._is_of_cluster:
            raise BrokerFault("the connection was lost while it was being made")
        try:
            return self._make(link)
        except AMQPConnectionError:
            self._may_be_half_made = True
            raise

    def _make(self, link: Link) -> bool:
        if not delete_stream(link, self._name):
            return False
        channel = link.channel(_DECLARE)
        channel.queue_declare(self._name, durable=True, arguments=BLOB)
        channel.queue_bind(self._name, self._topology.inbound, self._topology.blob_key(self._name))
        return True


def delete_stream(link: Link, name: str) -> bool:
    """False if another connection holds a queue of this name for itself."""
    try:
        link.channel(_DECLARE).queue_delete(name)
    except ChannelClosedByBroker as error:
        if error.reply_code != _LOCKED:
            raise
        return False
    return True


class Upload:
    """A blob being written: a part is on its way while the next is prepared."""

    def __init__(self, writer: Link, topology: Topology, name: str) -> None:
        self._writer, self._topology, self._name = writer, topology, name
        self._num_parts = 0
        self._on_their_way: deque[Future[None]] = deque()

    def write(self, part: bytes) -> None:
        publish = partial(_publish_part, topology=self._topology, name=self._name, index=self._num_parts, part=part)
        self._on_their_way.append(self._writer.submit(publish))
        self._num_parts += 1
        self._wait_until_left(_PARTS_ON_THEIR_WAY)

    def finish(self) -> str:
        self._wait_until_left(0)
        return self._name

    def _wait_until_left(self, num: int) -> None:
        try:
            while len(self._on_their_way) > num:
                self._writer.result_of(self._on_their_way.popleft())
        except QueueMissing as error:
            raise BlobLost(f"blob {self._name} was deleted while it was being written") from error


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a blob on its way from the reader's thread to the caller's, or news of the blob."""

    consumer: "BlobConsumer"
    index: int = 0
    body: bytes = b""
    channel: BlockingChannel | None = None
    tag: int = 0
    news: BlobNews | None = None


class BlobConsumer:
    """Reads one blob in the reader's thread; ``put`` gets its parts in order, each once, and what goes wrong.

    Started again on a new connection, it goes on after the last part that it has put. What did not come by one of the
    blob's own ``doors``, (exchange, routing key), is no part of it: on RabbitMQ 3.10, a ``CC`` header passes the topic
    permissions.
    """

    def __init__(
        self, name: str, put: Callable[[Part], None], *, doors: Collection[tuple[str, str]], num_parts: int = 0
    ) -> None:
        self.name, self.num_parts = name, num_parts
        self._doors = doors
        self._put = put
        self._role = f"blob {name}"
        self._next_part = 0

    def start(self, link: Link) -> None:
        """Begins to read; at another node, if this one has no copy of a stream that was made just now, or fails."""
        for num_left in reversed(range(_TRIES_HERE)):
            try:
                self._consume(link)
            except ChannelClosedByBroker as error:
                if of_channel(error.reply_code, error.reply_text) in (Kind.PASSING, Kind.FAULT):
                    if not num_left:
                        raise BrokerUnreachable(error.reply_text) from error
                    link.pause(_SETTLES_S)
                    continue
                if error.reply_code not in (_LOCKED, _UNFIT):
                    raise
                raise BlobLost(f"blob {self.name} {BlobNews.UNREADABLE}: {error.reply_text}") from error
            return

    def _consume(self, link: Link) -> None:
        channel = link.channel(self._role, confirms=False)
        channel.basic_qos(prefetch_count=_PREFETCH)
        channel.add_on_cancel_callback(lambda frame: self.tell(BlobNews.GONE))
        channel.basic_consume(self.name, self._on_part, arguments={"x-stream-offset": "first"})
        link.need(channel)

    def _on_part(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        if (method.exchange, method.routing_key) not in self._doors:
            if channel.is_open:
                channel.basic_ack(method.delivery_tag)
            return
        index = (properties.headers or {}).get(PART_HEADER)
        if not isinstance(index, int) or not 0 <= index <= self._next_part:
            self.tell(BlobNews.OUT_OF_ORDER)
        elif index < self._next_part:  # published twice, or read before a reconnect
            if channel.is_open:
                channel.basic_ack(method.delivery_tag)
        else:
            self._next_part += 1
            self._put(Part(self, index, body, channel, method.delivery_tag))

    def ask(self, link: Link) -> None:
        """Has the broker answer, and takes what it sent before."""
        link.channel(self._role, confirms=False).basic_qos(prefetch_count=_PREFETCH)
        link.wait_for_events(0)
        self.tell(BlobNews.QUIET)

    def tell(self, news: BlobNews) -> None:
        self._put(Part(self, news=news))

    def fail(self, error: BaseException) -> None:
        """It could not be started."""
        if isinstance(error, QueueMissing):
            self.tell(BlobNews.GONE)
        elif isinstance(error, BlobLost | BrokerRefused):
            log.warning("blob %s cannot be read: %s", self.name, error)
            self.tell(BlobNews.UNREADABLE)
        else:
            self.tell(BlobNews.INTERRUPTED)

    def stop(self, link: Link) -> None:
        link.close_channel(self._role)


def _publish_part(link: Link, *, topology: Topology, name: str, index: int, part: bytes) -> None:
    """Returns once the broker has the part; one that a lost connection interrupts is published again, in its turn."""
    exchange, key = topology.inbound, topology.blob_key(name)
    link.publish(exchange, key, part, durable({PART_HEADER: index}))


def ack_of(part: Part) -> Callable[[Link], None]:
    def do(link: Link) -> None:
        if part.channel is not None and part.channel.is_open:
            part.channel.basic_ack(part.tag)

    return do
