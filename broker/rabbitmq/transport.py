"""The Transport over RabbitMQ with pika: one connection to write, one to read, each with a thread of its own.

Two, because a broker short of memory stops reading from connections that publish, and acks of updates must go on. Who
receives nothing but models, as thousands of workers do, has no such acks: it reads and writes over one.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from broker.addresses import addresses_of
from broker.patience import Patience
from broker.rabbitmq.acks import Acks, Dropped, Mark
from broker.rabbitmq.aside import Aside
from broker.rabbitmq.blobs import BlobConsumer, Making, Part, Upload, ack_of, delete_stream
from broker.rabbitmq.counts import COUNT_LAGS_S, is_there, num_waiting, queued
from broker.rabbitmq.links import Link, Turns
from broker.rabbitmq.newest_status import NewestStatus
from broker.rabbitmq.properties import RETURNS_HEADER, durable, fleeting, key_text
from broker.rabbitmq.queues import bindings, exchanges, queues
from broker.rabbitmq.signs import Signs
from broker.settings import BrokerSettings
from broker.transport import (
    ANSWERS_WITHIN_S,
    MAX_COMMAND_BYTES,
    BlobNews,
    BlobUpload,
    Delivery,
    Queued,
    Source,
    Transport,
    received,
)
from broker.wire import (
    COMMAND_KEY,
    Buffer,
    Topology,
    keeper_key,
    names_of,
    partial_key,
    presence_key,
    release_key,
    sender_of,
    update_key,
)
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

_LOCKED = 405

_COMMANDS_AT_ONCE = 16

_BLOB_STALL_S, _LOOK_UP_S = 60.0, 1.0
_NEWEST_HEAD_S = 10.0

_QUORUM_QUEUE_SETTLES_S = 1.0
"""A quorum queue younger than this may not survive a kill -9 of RabbitMQ 3.10."""


class RabbitMQ(Transport):
    """One process's access to RabbitMQ; ``role`` names its connections, for operators.

    ``topology`` has the names to use and declare, by default those of ``settings.queue`` without shards. ``is_told``:
    whether the log says what its connections go through.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        role: str,
        topology: Topology | None = None,
        on_link: Callable[[LinkChanged], None] = lambda change: None,
        is_told: bool = True,
    ) -> None:
        self._settings = settings
        self._is_told = is_told
        self._on_link = on_link
        self._role = role
        self._topology = topology or Topology(settings.queue)
        self._inbox: queue.SimpleQueue[Delivery | Part | FedmqError | None] = queue.SimpleQueue()
        self._newest: Delivery | None = None
        self._newest_lock = threading.Lock()
        self._session = 0
        self._acks = Acks()
        """Of this session's updates; only the reader's thread touches them."""
        self._dropped = Dropped(lambda link, marks: self._ack_updates(link, marks=marks))
        self._drops_at_once = 1
        self._unacked_commands: set[int] = set()
        """The same of commands."""
        self._status = NewestStatus(self._topology.statuses)
        self._consumers: set[BlobConsumer] = set()
        """Of all blobs that are being read."""
        self._fetches: dict[str, BlobConsumer] = {}
        """Blob name -> its consumer, for those whose parts go to ``receive``."""
        self._leads = False
        self._declares = False
        self._turns = Turns(addresses_of(settings.broker))
        self._made_writer: Link | None = None
        self._is_impatient = False
        self._making = threading.Lock()
        self._reader: Link | None = None
        self._most_bytes: int | None = None
        self._aside = Aside(
            lambda: self._writer, self._topology.dead_letters, on_kept=self.ack, on_failed=self._inbox.put
        )
        self._ignored: dict[str, list[int]] = {}
        """Sender -> number and bytes of its updates that were dropped; the reader's thread counts."""
        self._signs = Signs(self._topology, self._inbox.put)

    @property
    def _writer(self) -> Link:
        """Made when it is first asked for, so that ``listen`` may have it read, too."""
        with self._making:
            if self._made_writer is None:
                self._made_writer = Link(
                    self._settings,
                    f"{self._role} writer",
                    turns=self._turns.copy(),
                    is_told=self._is_told,
                    on_open=self._end_leading,
                    on_failed=self._inbox.put,
                    on_problem=self._problem_reporter("writer"),
                )
                if self._is_impatient:
                    self._made_writer.give_up_waiting()
            return self._made_writer

    # -- queues ---------------------------------------------------------------------------------------------

    def declare(self) -> None:
        if not self._topology.is_of_root:
            self._writer.call(self._find, waits_for_queue=True)
            return
        self._writer.call(self._declare)
        self._declares = True

    def _find(self, link: Link) -> None:
        """Raises unless the root aggregator has made what a partial aggregator or a keeper needs."""
        is_keeper = self._topology.keeper is not None  # which may not even see the models
        for name in (self._topology.updates,) if is_keeper else (self._topology.models, self._topology.updates):
            num_waiting(link, name)

    def _declare(self, link: Link) -> None:
        durable_queues = (*self._topology.update_queues, self._topology.commands)
        is_new = not all(is_there(link, name) for name in durable_queues)
        channel = link.channel("declare")
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
        self._stop_reading()
        self._signs.close()
        self._writer.call(do)

    def check(self) -> None:
        name = self._topology.models if self._topology.keeper is None else self._topology.updates
        try:
            self._writer.call(lambda link: num_waiting(link, name), is_retried=False, within_s=ANSWERS_WITHIN_S)
        except QueueMissing as error:
            raise QueueMissing(
                f"the broker answers, and has no '{name}': fl-aggregator makes it at its first start;"
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
        self._stop_reading()
        self._most_bytes = most_bytes
        self._drops_at_once = max(1, prefetch // 4)
        of_reader = [source for source in sources if source is not Source.PRESENCE]
        if Source.PRESENCE in sources:
            self._signs.listen(
                self._settings,
                f"{self._role} signs of life",
                turns=self._turns.copy(),
                on_failed=self._inbox.put,
                on_problem=self._problem_reporter("signs of life"),
            )
        with self._making:
            writes = sources == (Source.MODELS,) and self._made_writer is None
            name = "connection" if writes else "reader"
            self._reader = Link(
                self._settings,
                f"{self._role} {name}",
                turns=self._turns.copy(),
                waits_for_queue=not self._declares,  # the one that made the queue gets an error if it is deleted
                on_open=lambda link: self._subscribe(link, of_reader, prefetch),
                on_lost=self._interrupt_blobs,
                on_failed=self._inbox.put,
                on_problem=self._problem_reporter(name),
            )
            if writes:
                self._made_writer = self._reader
            if self._is_impatient:
                self._reader.give_up_waiting()

    def _stop_reading(self) -> None:
        if self._reader is None:
            return
        self._stop_all_fetching()
        self._reader.close()
        with self._making:
            if self._made_writer is self._reader:
                self._made_writer = None

    def _problem_reporter(self, name: str) -> Callable[[str | None], None]:
        return lambda problem: self._on_link(LinkChanged(name=name, problem=problem))

    def _subscribe(self, link: Link, sources: Sequence[Source], prefetch: int) -> None:
        if link is self._made_writer:
            self._end_leading(link)
        self._begin_session()
        for source in sources:
            channel = link.subscription(source)
            if source is Source.MODELS:
                channel.basic_qos(prefetch_count=2)
                channel.basic_consume(self._topology.models, self._on_head, arguments={"x-stream-offset": "last"})
            elif source is Source.UPDATES:
                channel.basic_qos(prefetch_count=prefetch)
                channel.basic_consume(self._topology.updates, partial(self._on_update, link=link))
            else:
                channel.basic_qos(prefetch_count=_COMMANDS_AT_ONCE)
                channel.basic_consume(self._topology.commands, self._on_command)

    def _begin_session(self) -> None:
        self._session += 1
        self._acks.begin()
        self._dropped.begin(at_once=self._drops_at_once)
        self._unacked_commands.clear()

    def _on_head(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)  # on a stream, only says that we can take more
        with self._newest_lock:
            is_announced = self._newest is not None
            self._newest = Delivery(Source.MODELS, body)
        if not is_announced:
            self._inbox.put(self._newest)

    def _on_update(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes, *, link: Link) -> None:
        sender = sender_of(key_text(method.routing_key))
        self._acks.received(method.delivery_tag)
        ignored = self._ignored.get(sender)
        if ignored is not None:
            ignored[0] += 1
            ignored[1] += len(body)
            self._dropped.add(link, (self._session, method.delivery_tag))
            return
        returns = (properties.headers or {}).get(RETURNS_HEADER)
        # on a first delivery, the sender wrote it
        num_returns = returns if method.redelivered and isinstance(returns, int) else 0
        delivery = Delivery(Source.UPDATES, body, sender, method.delivery_tag, self._session, num_returns)
        self._inbox.put(received(delivery, self._most_bytes))

    def _on_command(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        self._unacked_commands.add(method.delivery_tag)
        delivery = Delivery(Source.COMMANDS, body, COMMAND_KEY, method.delivery_tag, self._session)
        self._inbox.put(received(delivery, MAX_COMMAND_BYTES))

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
            if isinstance(item, Part):
                delivery = self._handed_out(item)
                if delivery is not None:
                    return delivery
                continue
            if item.source is Source.MODELS:
                with self._newest_lock:  # of several heads only the newest is of use
                    item, self._newest = self._newest, None
                return item
            if item.source is Source.PRESENCE:
                self._signs.taken(item.sender)
                return item
            if item.session == self._session:
                return item  # and not an update or command of an earlier session, which is delivered again

    def wake(self) -> None:
        self._inbox.put(None)

    def give_up_waiting(self) -> None:
        self._is_impatient = True  # also for a link that is being made just now
        for link in (self._made_writer, self._reader):
            if link is not None:
                link.give_up_waiting()

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        everything = list(deliveries)
        for delivery in everything:
            if delivery.source is Source.COMMANDS:
                self._reading().post(partial(self._ack_command, delivery=delivery))
        marks = [(delivery.session, delivery.tag) for delivery in everything if delivery.source is Source.UPDATES]
        if marks:
            self._reading().post(partial(self._ack_updates, marks=marks))

    def _ack_updates(self, link: Link, *, marks: Iterable[Mark]) -> None:
        tags = [tag for session, tag in marks if session == self._session]
        if tags:
            self._acks.ack(link.channel(Source.UPDATES), tags)

    def _ack_command(self, link: Link, *, delivery: Delivery) -> None:
        if delivery.session == self._session and delivery.tag in self._unacked_commands:
            self._unacked_commands.remove(delivery.tag)
            link.channel(Source.COMMANDS).basic_ack(delivery.tag)

    def give_back(self) -> None:
        self._aside.wait()
        self._stop_all_fetching()

        def do(link: Link) -> None:
            self._dropped.now(link)
            last = self._acks.newest
            last_command = max(self._unacked_commands, default=None)
            self._begin_session()
            if last_command is not None:
                link.channel(Source.COMMANDS).basic_nack(last_command, multiple=True, requeue=True)
            if last is not None:  # and not all: the broker may just be sending more, which then belong to this session
                link.channel(Source.UPDATES).basic_nack(last, multiple=True, requeue=True)

        self._reading().call(do)

    def drop(self, delivery: Delivery) -> None:
        self._dropped.add(self._reading(), (delivery.session, delivery.tag))

    def set_aside(self, delivery: Delivery, reason: str) -> None:
        self._aside.put(delivery, reason)

    def ignore(self, sender: str) -> None:
        self._ignored.setdefault(sender, [0, 0])

    def heed_all(self) -> dict[str, tuple[int, int]]:
        if not self._ignored:
            return {}

        def do(link: Link) -> dict[str, list[int]]:
            self._dropped.now(link)
            ignored, self._ignored = self._ignored, {}
            return ignored

        return {sender: (num, num_bytes) for sender, (num, num_bytes) in self._reading().call(do).items()}

    def newest_head(self) -> Buffer | None:
        return self._writer.call(self._read_newest)

    def _read_newest(self, link: Link) -> Buffer | None:
        is_counted = num_waiting(link, self._topology.models) > 0
        heads: list[bytes] = []
        channel = link.channel("newest")
        channel.basic_qos(prefetch_count=1)

        def on_head(channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
            channel.basic_ack(method.delivery_tag)
            heads[:] = [body]

        tag = channel.basic_consume(self._topology.models, on_head, arguments={"x-stream-offset": "last"})
        deadline = time.monotonic() + (_NEWEST_HEAD_S if is_counted else COUNT_LAGS_S)
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

    def send_request(self, body: bytes, *, keeper: str) -> None:
        self._publish(self._topology.inbound, keeper_key(keeper), body)

    def send_release(self, body: bytes, *, keeper: str) -> None:
        self._publish(self._topology.inbound, release_key(keeper), body)

    def send_command(self, body: bytes) -> None:
        self._publish(self._topology.inbound, COMMAND_KEY, body, waits_for_queue=False)

    def announce(self, body: bytes, *, worker: str) -> None:
        def do(link: Link) -> None:
            channel = link.channel("presence", confirms=False)
            channel.basic_publish(self._topology.inbound, presence_key(worker), body, fleeting())

        self._writer.post(do)

    def send_status(self, body: bytes) -> None:
        def do(link: Link) -> None:
            link.channel("presence", confirms=False).basic_publish("", self._topology.statuses, body, fleeting())

        self._writer.post(do)

    def read_status(self, *, within_s: float = ANSWERS_WITHIN_S) -> Buffer | None:
        return self._writer.call(self._status.read, is_retried=False, within_s=within_s)

    def queued(self, names: Sequence[str], *, within_s: float = ANSWERS_WITHIN_S) -> dict[str, Queued]:
        found = {}
        patience = Patience.of(within_s)
        for name in names:
            try:
                count = partial(queued, name=name)
                found[name] = self._writer.call(count, is_retried=False, within_s=patience.left_s)
            except BrokerFault as error:
                found[name] = Queued(0, 0, fault=str(error))
            except (QueueMissing, BrokerRefused):
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
            lambda link: link.publish(exchange, key, body, properties),
            waits_for_queue=waits_for_queue,
        )

    # -- blobs ----------------------------------------------------------------------------------------------

    def open_blob(self, name: str) -> BlobUpload:
        return Upload(self._writer, self._topology, self._declare_anew(name))

    def _declare_anew(self, name: str) -> str:
        """Makes a new, empty stream of this name, filled by way of the exchange; or of the next name, if a kill in
        mid-declare left this one half made, or another connection holds it for itself."""
        for candidate in names_of(name):
            making = Making(self._topology, candidate, is_of_cluster=len(self._turns) > 1)
            try:
                if self._writer.call(making, raises_fault=True, waits_for_queue=not self._declares):
                    return candidate
                log.warning("stream %s is held by another connection", candidate)
            except BrokerFault as error:
                log.warning("stream %s cannot be used any more: %s", candidate, error)
        raise BlobLost(f"the broker cannot make a stream {name}")

    def read_blob(self, name: str, num_parts: int) -> Iterator[Buffer]:
        arrived: queue.SimpleQueue[Part] = queue.SimpleQueue()
        consumer = BlobConsumer(name, arrived.put, doors=self._doors(name))
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
                    self._reading().post(ack_of(part))
                    num_read += 1
                    yield part.body
        finally:
            self._stop(consumer)

    def _next_of(self, arrived: "queue.SimpleQueue[Part]", name: str) -> "Part":
        deadline = time.monotonic() + _BLOB_STALL_S
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                return arrived.get(timeout=_LOOK_UP_S)
            self._reading().check_patience()
            if self._reading().is_blocked:  # our acks, which ask for more, are not read meanwhile
                deadline = time.monotonic() + _BLOB_STALL_S
        raise BlobLost(f"blob {name} ends before its last part")

    def fetch(self, name: str, num_parts: int) -> None:
        consumer = BlobConsumer(name, self._inbox.put, doors=self._doors(name), num_parts=num_parts)
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

    def _stop(self, consumer: "BlobConsumer") -> None:
        self._consumers.discard(consumer)
        self._reading().post(consumer.stop)

    def _handed_out(self, part: "Part") -> Delivery | None:
        """A part as ``receive`` gives it; None if its blob is not being fetched any more."""
        name, consumer = part.consumer.name, part.consumer
        if self._fetches.get(name) is not consumer:
            return None
        if part.news is None:
            self._reading().post(ack_of(part))
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
                if not self._writer.call(partial(delete_stream, name=name), raises_fault=True):
                    log.warning("stream %s is held by another connection and stays", name)
            except BrokerFault as error:
                log.warning("stream %s cannot be deleted and stays: %s", name, error)

    # -- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._made_writer is not None:
            self._made_writer.give_up_waiting()
        with contextlib.suppress(FedmqError):  # what is not among the dead letters yet is delivered again
            self._aside.wait()
        if self._reader is not None:
            self._stop_all_fetching()
            self._reader.post(self._dropped.now)
            self._reader.close()
        self._signs.close()
        if self._made_writer is not None:
            self._made_writer.close()

    def _reading(self) -> Link:
        if self._reader is None:
            raise RuntimeError("listen() comes first")
        return self._reader
