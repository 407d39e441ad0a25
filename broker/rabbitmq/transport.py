"""The Transport over RabbitMQ with pika: one connection to write, one to read, each with a thread of its own.

Two, because a broker short of memory stops reading from connections that publish; acks and heartbeats must go on.
"""

import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from broker.rabbitmq.aside import Aside
from broker.rabbitmq.link import Link
from broker.rabbitmq.properties import PART_HEADER, RETURNS_HEADER, durable, fleeting
from broker.rabbitmq.queues import BLOB, bindings, exchanges, outdated, queues
from broker.settings import BrokerSettings
from broker.transport import BlobNews, BlobUpload, Delivery, Queued, Source, Transport, received
from broker.wire import Buffer, Topology, names_of, partial_key, presence_key, sender_of, update_key
from console import (
    BlobLost,
    BrokerFault,
    BrokerRefused,
    BrokerUnreachable,
    FedmqError,
    LeadershipLost,
    LinkChanged,
    QueueMissing,
)

log = logging.getLogger(__name__)

_NOT_FOUND = 404
_LOCKED = 405
_UNFIT = 406

_BLOB_PREFETCH = 2
_PARTS_ON_THEIR_WAY = 1
"""Parts that wait for the writer, besides the one it is sending, while the next is prepared."""
_BLOB_STALL_S, _LOOK_UP_S = 60.0, 1.0
_NEWEST_S = 10.0
_REST_OF_CHUNK_S = 0.05
"""Within it, the next message of a chunk of a stream arrives."""
_STATUS_PREFETCH = 100
_COUNT_LAGS_S = 1.5
"""For up to a second, RabbitMQ may report a stream that holds messages as empty."""

_QUORUM_QUEUE_SETTLES_S = 1.0
"""A quorum queue younger than this may not survive a kill -9 of RabbitMQ 3.10."""


class RabbitMQ(Transport):
    """One process's access to RabbitMQ; ``role`` names its connections, for operators.

    ``topology`` has the names to use and declare, by default those of ``settings.queue`` without shards.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        role: str,
        topology: Topology | None = None,
        on_link: Callable[[LinkChanged], None] = lambda change: None,
    ) -> None:
        self._settings = settings
        self._on_link = on_link
        self._role = role
        self._topology = topology or Topology(settings.queue)
        self._inbox: queue.SimpleQueue[Delivery | _Part | FedmqError | None] = queue.SimpleQueue()
        self._newest: Delivery | None = None
        self._newest_lock = threading.Lock()
        self._session = 0
        self._unacked: set[int] = set()
        """Tags of this session's updates; only the reader's thread touches them."""
        self._status = _NewestStatus(self._topology.statuses)
        self._consumers: set[_BlobConsumer] = set()
        """Of all blobs that are being read."""
        self._fetches: dict[str, _BlobConsumer] = {}
        """Blob name -> its consumer, for those whose parts go to ``receive``."""
        self._leads = False
        self._declares = False
        self._writer = Link(
            settings,
            f"{role} writer",
            on_open=self._end_leading,
            on_failed=self._inbox.put,
            on_problem=self._problem_reporter("writer"),
        )
        self._reader: Link | None = None
        self._most_bytes: int | None = None
        self._aside = Aside(self._writer, self._topology.dead_letters, on_kept=self.ack, on_failed=self._inbox.put)
        self._ignored: dict[str, list[int]] = {}
        """Sender -> number and bytes of its updates that were dropped; the reader's thread counts."""

    # -- queues ---------------------------------------------------------------------------------------------

    def declare(self) -> None:
        if self._topology.shard is not None:
            self._writer.call(self._find, waits_for_queue=True)
            return
        self._writer.call(self._declare)
        self._declares = True

    def _find(self, link: Link) -> None:
        """Raises unless the root aggregator has made what a partial aggregator needs."""
        for name in (self._topology.models, self._topology.updates):
            _declare_passive(link, name)

    def _declare(self, link: Link) -> None:
        is_new = not all(_is_there(link, name) for name in self._topology.update_queues)
        channel = link.channel("declare")
        for name in outdated(self._topology):
            channel.queue_delete(name)
        for exchange, kind in exchanges(self._topology).items():
            channel.exchange_declare(exchange, exchange_type=kind, durable=True)
        for name, arguments in queues(self._topology).items():
            channel.queue_declare(name, durable=True, arguments=arguments)
        for exchange, name, key in bindings(self._topology):
            channel.queue_bind(name, exchange, routing_key=key)
        if is_new:
            log.info("made queue '%s' and all that belongs to it", self._topology.updates)
            link.pause(_QUORUM_QUEUE_SETTLES_S)

    def remove(self) -> None:
        def do(link: Link) -> None:
            for name in queues(self._topology):
                link.channel("declare").queue_delete(name)
            for name in exchanges(self._topology):
                link.channel("declare").exchange_delete(name)

        self._aside.wait()
        if self._reader is not None:
            self._stop_all_fetching()
            self._reader.close()
        self._writer.call(do)

    def check(self) -> None:
        models = self._topology.models
        try:
            self._writer.call(lambda link: _declare_passive(link, models), is_retried=False)
        except QueueMissing as error:
            raise QueueMissing(
                f"the broker answers, and has no stream '{models}': fl-aggregator makes it at its first start;"
                " if it has been started, compare --queue and the virtual host in its broker's URL with yours"
            ) from error

    def lead(self) -> bool:
        self._leads = self._writer.call(self._claim)
        return self._leads

    def _claim(self, link: Link) -> bool:
        try:
            link.channel("leader").queue_declare(self._topology.leader, exclusive=True)
        except ChannelClosedByBroker as error:
            if error.reply_code != _LOCKED:
                raise
            return False
        return True

    def _end_leading(self, link: Link) -> None:
        """Raises if this one led: between the lost connection and the new one, another aggregator may have led."""
        if self._leads:
            raise LeadershipLost(f"the connection that led queue '{self._topology.updates}' was lost")

    # -- receiving ------------------------------------------------------------------------------------------

    def listen(self, *sources: Source, prefetch: int = 16, most_bytes: int | None = None) -> None:
        if self._reader is not None:
            self._stop_all_fetching()
            self._reader.close()
        self._most_bytes = most_bytes
        self._reader = Link(
            self._settings,
            f"{self._role} reader",
            waits_for_queue=not self._declares,  # the one that made the queue gets an error if it is deleted
            on_open=lambda link: self._subscribe(link, sources, prefetch),
            on_lost=self._interrupt_blobs,
            on_failed=self._inbox.put,
            on_problem=self._problem_reporter("reader"),
        )

    def _problem_reporter(self, name: str) -> Callable[[str | None], None]:
        return lambda problem: self._on_link(LinkChanged(name=name, problem=problem))

    def _subscribe(self, link: Link, sources: Sequence[Source], prefetch: int) -> None:
        self._begin_session()
        for source in sources:
            channel = link.subscription(source)
            if source is Source.MODELS:
                channel.basic_qos(prefetch_count=2)
                channel.basic_consume(self._topology.models, self._on_head, arguments={"x-stream-offset": "last"})
            elif source is Source.UPDATES:
                channel.basic_qos(prefetch_count=prefetch)
                channel.basic_consume(self._topology.updates, self._on_update)
            else:
                channel.basic_consume(self._topology.presence, self._on_presence, auto_ack=True)

    def _begin_session(self) -> None:
        self._session += 1
        self._unacked.clear()

    def _on_head(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)  # on a stream, only says that we can take more
        with self._newest_lock:
            is_announced = self._newest is not None
            self._newest = Delivery(Source.MODELS, body)
        if not is_announced:
            self._inbox.put(self._newest)

    def _on_update(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        sender = sender_of(_text(method.routing_key))
        dropped = self._ignored.get(sender)
        if dropped is not None:
            dropped[0] += 1
            dropped[1] += len(body)
            channel.basic_ack(method.delivery_tag)
            return
        returns = (properties.headers or {}).get(RETURNS_HEADER)
        num_returns = returns if isinstance(returns, int) else 0  # on a first delivery, the sender wrote it
        self._unacked.add(method.delivery_tag)
        delivery = Delivery(Source.UPDATES, body, sender, method.delivery_tag, self._session, num_returns)
        self._inbox.put(received(delivery, self._most_bytes))

    def _on_presence(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        self._inbox.put(Delivery(Source.PRESENCE, body, _text(method.routing_key).removeprefix(presence_key(""))))

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                item = self._inbox.get(block=left_s != 0, timeout=left_s or None)
            except queue.Empty:
                return None
            if isinstance(item, FedmqError):
                raise item
            if item is None:
                return None
            if isinstance(item, _Part):
                delivery = self._handed_out(item)
                if delivery is not None:
                    return delivery
                continue
            if item.source is Source.MODELS:
                with self._newest_lock:  # of several heads only the newest is of use
                    item, self._newest = self._newest, None
                return item
            if item.source is Source.PRESENCE or item.session == self._session:
                return item  # and not an update of an earlier session, which is delivered again

    def wake(self) -> None:
        self._inbox.put(None)

    def give_up_waiting(self) -> None:
        for link in (self._writer, self._reader):
            if link is not None:
                link.give_up_waiting()

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        marks = [(delivery.session, delivery.tag) for delivery in deliveries]

        def do(link: Link) -> None:
            tags = self._unacked.intersection(tag for session, tag in marks if session == self._session)
            self._unacked -= tags
            channel = link.channel(Source.UPDATES)
            if tags and max(tags) < min(self._unacked, default=math.inf):
                channel.basic_ack(max(tags), multiple=True)  # for a quorum queue one command instead of many
                return
            for tag in tags:
                channel.basic_ack(tag)

        self._reading().post(do)

    def give_back(self) -> None:
        self._aside.wait()
        self._stop_all_fetching()

        def do(link: Link) -> None:
            last = max(self._unacked, default=None)
            self._begin_session()
            if last is not None:  # and not all: the broker may just be sending more, which then belong to this session
                link.channel(Source.UPDATES).basic_nack(last, multiple=True, requeue=True)

        self._reading().call(do)

    def set_aside(self, delivery: Delivery, reason: str) -> None:
        self._aside.put(delivery, reason)

    def ignore(self, sender: str) -> None:
        self._ignored.setdefault(sender, [0, 0])

    def heed_all(self) -> dict[str, tuple[int, int]]:
        if not self._ignored:
            return {}

        def do(link: Link) -> dict[str, list[int]]:
            ignored, self._ignored = self._ignored, {}
            return ignored

        return {sender: (num, num_bytes) for sender, (num, num_bytes) in self._reading().call(do).items()}

    def newest_head(self) -> Buffer | None:
        return self._writer.call(self._read_newest)

    def _read_newest(self, link: Link) -> Buffer | None:
        is_counted = _declare_passive(link, self._topology.models) > 0
        heads: list[bytes] = []
        channel = link.channel("newest")
        channel.basic_qos(prefetch_count=1)

        def on_head(channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
            channel.basic_ack(method.delivery_tag)
            heads[:] = [body]

        tag = channel.basic_consume(self._topology.models, on_head, arguments={"x-stream-offset": "last"})
        deadline = time.monotonic() + (_NEWEST_S if is_counted else _COUNT_LAGS_S)
        while not heads and time.monotonic() < deadline:
            link.wait_for_events(0.5)
        link.wait_for_events(0.1)  # the rest of the last chunk
        channel.basic_cancel(tag)
        return heads[0] if heads else None

    # -- publishing -----------------------------------------------------------------------------------------

    def broadcast(self, body: bytes) -> None:
        self._publish("", self._topology.models, body, waits_for_queue=False)

    def send(self, body: bytes, *, worker: str, num_shards: int = 0) -> None:
        self._publish(self._topology.inbound, update_key(worker, num_shards), body)

    def send_partial(self, body: bytes, *, shard: int) -> None:
        self._publish(self._topology.inbound, partial_key(shard), body)

    def announce(self, body: bytes, *, worker: str) -> None:
        def do(link: Link) -> None:
            channel = link.channel("presence", confirms=False)
            channel.basic_publish(self._topology.inbound, presence_key(worker), body, fleeting())

        self._writer.post(do)

    def send_status(self, body: bytes) -> None:
        def do(link: Link) -> None:
            link.channel("presence", confirms=False).basic_publish("", self._topology.statuses, body, fleeting())

        self._writer.post(do)

    def read_status(self) -> Buffer | None:
        return self._writer.call(self._status.read, is_retried=False)

    def queued(self, names: Sequence[str]) -> dict[str, Queued]:
        found = {}
        for name in names:
            try:
                found[name] = self._writer.call(partial(_queued, name=name), is_retried=False)
            except (QueueMissing, BrokerRefused, BrokerFault):
                continue
        return found

    def _publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        waits_for_queue: bool = True,
    ) -> None:
        properties = durable()
        self._writer.call(
            lambda link: link.channel("publish").basic_publish(exchange, key, body, properties, mandatory=True),
            waits_for_queue=waits_for_queue,
        )

    # -- blobs ----------------------------------------------------------------------------------------------

    def open_blob(self, name: str) -> BlobUpload:
        return _BlobUpload(self._writer, self._topology, self._declare_anew(name))

    def _declare_anew(self, name: str) -> str:
        """Makes a new, empty stream of this name, filled by way of the exchange; or of the next name, if a kill in
        mid-declare left this one half made, or another connection holds it for itself."""
        for candidate in names_of(name):

            def declare(link: Link, candidate: str = candidate) -> bool:
                if not _delete(link, candidate):
                    return False
                channel = link.channel("declare")
                channel.queue_declare(candidate, durable=True, arguments=BLOB)
                channel.queue_bind(candidate, self._topology.inbound, self._topology.blob_key(candidate))
                return True

            try:
                if self._writer.call(declare, raises_fault=True, waits_for_queue=not self._declares):
                    return candidate
                log.warning("stream %s is held by another connection", candidate)
            except BrokerFault as error:
                log.warning("stream %s cannot be used any more: %s", candidate, error)
        raise BlobLost(f"the broker cannot make a stream {name}")

    def read_blob(self, name: str, num_parts: int) -> Iterator[Buffer]:
        arrived: queue.SimpleQueue[_Part] = queue.SimpleQueue()
        consumer = _BlobConsumer(name, arrived.put, doors=self._doors(name))
        self._consumers.add(consumer)
        num_read = 0
        try:
            while num_read < num_parts:
                try:
                    self._reading().call(consumer.start)
                except QueueMissing as error:
                    raise BlobLost(f"blob {name} {BlobNews.GONE}") from error
                while num_read < num_parts:
                    part = self._next_of(arrived, name)
                    if part.news is BlobNews.INTERRUPTED:
                        break
                    if part.news is not None:
                        raise BlobLost(f"blob {name} {part.news}")
                    self._reading().post(_ack_of(part))
                    num_read += 1
                    yield part.body
        finally:
            self._stop(consumer)

    def _next_of(self, arrived: "queue.SimpleQueue[_Part]", name: str) -> "_Part":
        deadline = time.monotonic() + _BLOB_STALL_S
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                return arrived.get(timeout=_LOOK_UP_S)
            self._reading().check_patience()
        raise BlobLost(f"blob {name} ends before its last part")

    def fetch(self, name: str, num_parts: int) -> None:
        consumer = _BlobConsumer(name, self._inbox.put, doors=self._doors(name), num_parts=num_parts)
        self._fetches[name] = consumer
        self._consumers.add(consumer)
        session = self._session

        def start(link: Link) -> None:
            if session != self._session:
                raise BrokerUnreachable("the connection was lost before the blob could be read")
            if consumer in self._consumers:
                consumer.start(link)

        self._reading().post(start, on_error=consumer.fail)

    def ask_after(self, name: str) -> None:
        consumer = self._fetches.get(name)
        if consumer is not None:
            self._reading().post(consumer.ask)

    def stop_fetching(self, name: str) -> None:
        consumer = self._fetches.pop(name, None)
        if consumer is not None:
            self._stop(consumer)

    def _stop_all_fetching(self) -> None:
        for name in tuple(self._fetches):
            self.stop_fetching(name)

    def _stop(self, consumer: "_BlobConsumer") -> None:
        self._consumers.discard(consumer)
        self._reading().post(consumer.stop)

    def _handed_out(self, part: "_Part") -> Delivery | None:
        """A part as ``receive`` gives it; None if its blob is not being fetched any more."""
        name, consumer = part.consumer.name, part.consumer
        if self._fetches.get(name) is not consumer:
            return None
        if part.news is None:
            self._reading().post(_ack_of(part))
        is_last = part.news is None and part.index + 1 == consumer.num_parts
        if is_last or part.news not in (None, BlobNews.QUIET):
            self.stop_fetching(name)
        return Delivery(Source.PARTS, part.body, name, session=self._session, part=part.index, news=part.news)

    def _interrupt_blobs(self) -> None:
        for consumer in tuple(self._consumers):
            consumer.tell(BlobNews.INTERRUPTED)

    def _doors(self, name: str) -> Collection[tuple[str, str]]:
        """(exchange, routing key) by which the parts of a blob come; directly to its stream from an earlier version."""
        return {(self._topology.inbound, self._topology.blob_key(name)), ("", name)}

    def delete_blobs(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                if not self._writer.call(partial(_delete, name=name), raises_fault=True):
                    log.warning("stream %s is held by another connection and stays", name)
            except BrokerFault as error:
                log.warning("stream %s cannot be deleted and stays: %s", name, error)

    # -- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._writer.give_up_waiting()
        with contextlib.suppress(FedmqError):  # what is not among the dead letters yet is delivered again
            self._aside.wait()
        if self._reader is not None:
            self._stop_all_fetching()
            self._reader.close()
        self._writer.close()

    def _reading(self) -> Link:
        if self._reader is None:
            raise RuntimeError("listen() comes first")
        return self._reader


class _BlobUpload:
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
class _Part:
    """A part of a blob on its way from the reader's thread to the caller's, or news of the blob."""

    consumer: "_BlobConsumer"
    index: int = 0
    body: bytes = b""
    channel: BlockingChannel | None = None
    tag: int = 0
    news: BlobNews | None = None


class _BlobConsumer:
    """Reads one blob in the reader's thread; ``put`` gets its parts in order, each once, and what goes wrong.

    Started again on a new connection, it goes on after the last part that it has put. What did not come by one of the
    blob's own ``doors``, (exchange, routing key), is no part of it: on RabbitMQ 3.10, a ``CC`` header passes the topic
    permissions.
    """

    def __init__(
        self, name: str, put: Callable[[_Part], None], *, doors: Collection[tuple[str, str]], num_parts: int = 0
    ) -> None:
        self.name, self.num_parts = name, num_parts
        self._doors = doors
        self._put = put
        self._role = f"blob {name}"
        self._next_part = 0

    def start(self, link: Link) -> None:
        channel = link.channel(self._role, confirms=False)
        channel.basic_qos(prefetch_count=_BLOB_PREFETCH)
        channel.add_on_cancel_callback(lambda frame: self.tell(BlobNews.GONE))
        try:
            channel.basic_consume(self.name, self._on_part, arguments={"x-stream-offset": "first"})
        except ChannelClosedByBroker as error:
            if error.reply_code not in (_LOCKED, _UNFIT):
                raise
            raise BlobLost(f"blob {self.name} {BlobNews.UNREADABLE}: {error.reply_text}") from error
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
            self._put(_Part(self, index, body, channel, method.delivery_tag))

    def ask(self, link: Link) -> None:
        """Has the broker answer, and takes what it sent before."""
        link.channel(self._role, confirms=False).basic_qos(prefetch_count=_BLOB_PREFETCH)
        link.wait_for_events(0)
        self.tell(BlobNews.QUIET)

    def tell(self, news: BlobNews) -> None:
        self._put(_Part(self, news=news))

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


class _NewestStatus:
    """The newest message of the status stream, by a consumer that stays.

    To cancel one that a message is on its way to, pika rejects the message, and RabbitMQ 3.10 closes a connection
    that rejects a stream's.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._channel: BlockingChannel | None = None
        """The one that consumes; None before the first read, and when the stream was deleted."""
        self._body: bytes | None = None
        self._num_seen = 0

    def read(self, link: Link) -> bytes | None:
        """Its body; None if there is none."""
        channel = link.channel("status")
        if channel is self._channel:
            link.wait_for_events(0)
        else:
            self._subscribe(link, channel)
        return self._body

    def _subscribe(self, link: Link, channel: BlockingChannel) -> None:
        self._channel, self._body = None, None
        is_counted = _declare_passive(link, self._stream) > 0
        channel.basic_qos(prefetch_count=_STATUS_PREFETCH)
        channel.add_on_cancel_callback(lambda frame: self._forget())
        channel.basic_consume(self._stream, self._on_status, arguments={"x-stream-offset": "last"})
        self._channel = channel
        num_seen = self._num_seen
        deadline = time.monotonic() + (_NEWEST_S if is_counted else _COUNT_LAGS_S)
        while self._num_seen == num_seen and time.monotonic() < deadline:
            link.wait_for_events(0.5)
        while self._num_seen > num_seen:
            num_seen = self._num_seen
            link.wait_for_events(_REST_OF_CHUNK_S)

    def _on_status(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        self._body = body
        self._num_seen += 1

    def _forget(self) -> None:
        self._channel, self._body = None, None


def _publish_part(link: Link, *, topology: Topology, name: str, index: int, part: bytes) -> None:
    """Returns once the broker has the part; one that a lost connection interrupts is published again, in its turn."""
    exchange, key = topology.inbound, topology.blob_key(name)
    link.channel("publish").basic_publish(exchange, key, part, durable({PART_HEADER: index}), mandatory=True)


def _delete(link: Link, name: str) -> bool:
    """False if another connection holds a queue of this name for itself."""
    try:
        link.channel("declare").queue_delete(name)
    except ChannelClosedByBroker as error:
        if error.reply_code != _LOCKED:
            raise
        return False
    return True


def _text(key: str | bytes) -> str:
    """A routing key; pika leaves one that is not UTF-8 as bytes."""
    return key if isinstance(key, str) else key.decode("utf-8", "replace")


def _ack_of(part: _Part) -> Callable[[Link], None]:
    def do(link: Link) -> None:
        if part.channel is not None and part.channel.is_open:
            part.channel.basic_ack(part.tag)

    return do


def _declare_passive(link: Link, name: str) -> int:
    """How many messages are in a queue; a channel error 404 if the queue is missing."""
    return _queued(link, name).num_waiting


def _queued(link: Link, name: str) -> Queued:
    found = link.channel("check").queue_declare(name, passive=True).method
    return Queued(int(found.message_count), int(found.consumer_count))


def _is_there(link: Link, name: str) -> bool:
    try:
        _declare_passive(link, name)
    except ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        return False
    return True
