"""The embedded broker: the same contract as RabbitMQ's, within one process; nothing is durable.

``fl-simulate`` and the unit tests use it. Every participant has its own MemoryTransport on one MemoryBroker.
"""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from broker.transport import (
    ANSWERS_WITHIN_S,
    MAX_COMMAND_BYTES,
    BlobNews,
    BlobUpload,
    DeadLetter,
    Delivery,
    Queued,
    Source,
    Transport,
    received,
)
from broker.wire import COMMAND_KEY, Buffer, Topology, keeper_key, partial_key, release_key, shard_of
from console import BlobLost, QueueMissing


class MemoryBroker:
    """What the participants share."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.is_declared = False
        self.leaders: dict[int | str | None, object] = {}
        """Shard, keeper, or None for the root -> the transport that leads it."""
        self.heads: deque[bytes] = deque(maxlen=1)
        self.num_heads = 0
        self.queues: dict[Source, deque[tuple[str, bytes]]] = {
            Source.UPDATES: deque(),
            Source.PRESENCE: deque(maxlen=10_000),
            Source.COMMANDS: deque(),
        }
        self.shards: dict[int | str, deque[tuple[str, bytes]]] = {}
        """Shard or keeper -> what waits for it."""
        self.blobs: dict[str, tuple[bytes, ...]] = {}
        self.dead: list[DeadLetter] = []
        self.status: bytes | None = None
        self.readers: dict[object, int | str | None] = {}
        """Transport that receives updates -> the shard or keeper they are for, or None for the root."""

    def remove(self) -> None:
        """Forgets the queues and their messages. Heads stay counted: a reader that saw three waits for the fourth."""
        self.is_declared = False
        self.status = None
        self.heads.clear()
        self.dead.clear()
        self.shards.clear()
        for waiting in self.queues.values():
            waiting.clear()


class MemoryTransport(Transport):
    """One participant's view of a MemoryBroker, or of one shard or keeper of it."""

    def __init__(
        self, broker: MemoryBroker, *, shard: int | None = None, keeper: str | None = None, queue: str = "updates"
    ) -> None:
        self._broker = broker
        self._topology = Topology(queue)
        self._shard: int | str | None = shard if keeper is None else keeper
        self._changed = broker.changed
        self._sources: tuple[Source, ...] = ()
        self._prefetch = 16
        self._most_bytes: int | None = None
        self._next_head = 0
        self._tags = itertools.count(1)
        self._unacked: dict[int, tuple[str, bytes]] = {}
        """Updates, by tag."""
        self._unacked_commands: dict[int, tuple[str, bytes]] = {}
        self._fetches: dict[str, _Fetch] = {}
        self._is_woken = False

    def declare(self) -> None:
        with self._changed:
            if self._shard is not None:
                self._changed.wait_for(lambda: self._broker.is_declared)
            self._broker.is_declared = True
            self._changed.notify_all()

    def remove(self) -> None:
        self.listen()
        with self._changed:
            self._unacked.clear()
            self._unacked_commands.clear()
            self._broker.remove()

    def check(self) -> None:
        if not self._broker.is_declared:
            raise QueueMissing("the embedded broker has no queues yet; the aggregator makes them")

    def lead(self) -> bool:
        with self._changed:
            return self._broker.leaders.setdefault(self._shard, self) is self

    def listen(self, *sources: Source, prefetch: int = 16, most_bytes: int | None = None) -> None:
        self._sources, self._prefetch, self._most_bytes = sources, prefetch, most_bytes
        with self._changed:
            self._broker.readers.pop(self, None)
            if Source.UPDATES in sources:
                self._broker.readers[self] = self._shard

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        with self._changed:
            if timeout_s != 0:  # thousands of simulated workers poll with 0 all the time
                self._changed.wait_for(lambda: self._is_woken or self._has_next(), timeout_s)
            self._is_woken = False
            return self._next()

    def wake(self) -> None:
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def give_up_waiting(self) -> None:
        """Does nothing: no method here waits for a broker."""

    def _has_next(self) -> bool:
        return any(self._is_ready(source) for source in self._sources) or any(map(self._has_part, self._fetches))

    def _is_ready(self, source: Source) -> bool:
        if source is Source.MODELS:
            return bool(self._broker.heads) and self._next_head < self._broker.num_heads
        if source is Source.UPDATES and len(self._unacked) >= self._prefetch:
            return False
        return bool(self._queue(source))

    def _queue(self, source: Source) -> deque[tuple[str, bytes]]:
        if source is Source.UPDATES and self._shard is not None:
            return self._broker.shards.setdefault(self._shard, deque())
        return self._broker.queues[source]

    def _has_part(self, name: str) -> bool:
        """Whether there is a part of a blob that is being fetched, or news."""
        fetch, stored = self._fetches[name], self._broker.blobs.get(name)
        return stored is None or fetch.next_part < len(stored) or fetch.is_asked_after

    def _next_part(self) -> Delivery | None:
        for name, fetch in self._fetches.items():
            if not self._has_part(name):
                continue
            stored, part = self._broker.blobs.get(name), fetch.next_part
            if stored is None:
                del self._fetches[name]
                return Delivery(Source.PARTS, b"", name, news=BlobNews.GONE)
            if part >= len(stored):
                fetch.is_asked_after = False
                return Delivery(Source.PARTS, b"", name, news=BlobNews.QUIET)
            fetch.next_part += 1
            if fetch.next_part == fetch.num_parts:
                del self._fetches[name]
            return Delivery(Source.PARTS, stored[part], name, part=part)
        return None

    def _next(self) -> Delivery | None:
        delivery = self._next_part()
        if delivery is not None:
            return delivery
        for source in self._sources:
            if not self._is_ready(source):
                continue
            if source is Source.MODELS:
                self._next_head = self._broker.num_heads
                return Delivery(source, self._broker.heads[-1])
            sender, body = self._queue(source).popleft()
            if source is Source.PRESENCE:
                return Delivery(source, body, sender)
            tag = next(self._tags)
            if source is Source.COMMANDS:
                self._unacked_commands[tag] = (sender, body)
                return received(Delivery(source, body, sender, tag), MAX_COMMAND_BYTES)
            self._unacked[tag] = (sender, body)
            return received(Delivery(source, body, sender, tag), self._most_bytes)
        return None

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        with self._changed:
            for delivery in deliveries:
                self._unacked.pop(delivery.tag, None)
                self._unacked_commands.pop(delivery.tag, None)
            self._changed.notify_all()

    def drop(self, delivery: Delivery) -> None:
        self.ack([delivery])

    def give_back(self) -> None:
        with self._changed:
            self._fetches.clear()
            self._queue(Source.UPDATES).extendleft(reversed(self._unacked.values()))
            self._unacked.clear()
            self._queue(Source.COMMANDS).extendleft(reversed(self._unacked_commands.values()))
            self._unacked_commands.clear()
            self._changed.notify_all()

    def set_aside(self, delivery: Delivery, reason: str) -> None:
        with self._changed:
            self._broker.dead.append(DeadLetter(delivery.body, reason, delivery.sender))
        self.ack([delivery])

    def ignore(self, sender: str) -> None:
        """Does nothing: a delivery costs nothing here."""

    def heed_all(self) -> dict[str, tuple[int, int]]:
        return {}

    def newest_head(self) -> Buffer | None:
        with self._changed:
            return self._broker.heads[-1] if self._broker.heads else None

    def broadcast(self, body: bytes) -> None:
        with self._changed:
            self._broker.heads.append(body)
            self._broker.num_heads += 1
            self._changed.notify_all()

    def send(self, body: bytes, *, worker: str, num_shards: int = 0) -> None:
        with self._changed:
            queue = self._broker.queues[Source.UPDATES]
            if num_shards:
                queue = self._broker.shards.setdefault(shard_of(worker, num_shards), deque())
            self._put(queue, worker, body)

    def send_partial(self, body: bytes, *, shard: int) -> None:
        self._put(self._broker.queues[Source.UPDATES], partial_key(shard), body)

    def send_request(self, body: bytes, *, keeper: str) -> None:
        with self._changed:
            self._put(self._broker.shards.setdefault(keeper, deque()), keeper_key(keeper), body)

    def send_release(self, body: bytes, *, keeper: str) -> None:
        self._put(self._broker.queues[Source.UPDATES], release_key(keeper), body)

    def send_command(self, body: bytes) -> None:
        if not self._broker.is_declared:
            raise QueueMissing("the embedded broker has no queues yet; the aggregator makes them")
        self._put(self._broker.queues[Source.COMMANDS], COMMAND_KEY, body)

    def announce(self, body: bytes, *, worker: str) -> None:
        self._put(self._broker.queues[Source.PRESENCE], worker, body)

    def send_status(self, body: bytes) -> None:
        self._broker.status = body

    def read_status(self, *, within_s: float = ANSWERS_WITHIN_S) -> Buffer | None:
        if not self._broker.is_declared:
            raise QueueMissing("the embedded broker has no queues yet; the aggregator makes them")
        return self._broker.status

    def queued(self, names: Sequence[str], *, within_s: float = ANSWERS_WITHIN_S) -> dict[str, Queued]:
        with self._changed:
            if not self._broker.is_declared:
                return {}
            readers = list(self._broker.readers.values())
            found = {
                self._name_of(reader): Queued(len(waiting), readers.count(reader))
                for reader, waiting in self._broker.shards.items()
            }
            found[self._topology.updates] = Queued(len(self._broker.queues[Source.UPDATES]), readers.count(None))
            found[self._topology.dead] = Queued(len(self._broker.dead), 0)
        return {name: found[name] for name in names if name in found}

    def _name_of(self, reader: int | str) -> str:
        return self._topology.requests_of(reader) if isinstance(reader, str) else self._topology.updates_of(reader)

    def _put(self, queue: deque[tuple[str, bytes]], sender: str, body: bytes) -> None:
        with self._changed:
            queue.append((sender, body))
            self._changed.notify_all()

    def open_blob(self, name: str) -> BlobUpload:
        return _BlobUpload(self._broker, name)

    def read_blob(self, name: str, num_parts: int) -> Iterator[Buffer]:
        with self._changed:
            stored = self._broker.blobs.get(name)
        if stored is None or len(stored) < num_parts:
            raise BlobLost(f"blob {name} is gone or lacks some of its {num_parts} parts")
        yield from stored[:num_parts]

    def fetch(self, name: str, num_parts: int) -> None:
        self._fetches[name] = _Fetch(num_parts)

    def ask_after(self, name: str) -> None:
        if name in self._fetches:
            self._fetches[name].is_asked_after = True

    def stop_fetching(self, name: str) -> None:
        self._fetches.pop(name, None)

    def delete_blobs(self, names: Sequence[str]) -> None:
        with self._changed:
            for name in names:
                self._broker.blobs.pop(name, None)
            self._changed.notify_all()

    def close(self) -> None:
        self.give_back()
        self.listen()
        if self._broker.leaders.get(self._shard) is self:
            del self._broker.leaders[self._shard]


@dataclass(slots=True)
class _Fetch:
    """How far a blob has been read."""

    num_parts: int
    next_part: int = 0
    is_asked_after: bool = False


class _BlobUpload:
    """A blob being written; readers find it once it is complete."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self._broker, self._name = broker, name
        self._parts: list[bytes] = []

    def write(self, part: bytes) -> None:
        self._parts.append(part)

    def finish(self) -> str:
        with self._broker.changed:
            self._broker.blobs[self._name] = tuple(self._parts)
            self._broker.changed.notify_all()
        return self._name
