"""What workers and aggregators need from a broker; ``rabbitmq`` and ``memory.py`` both provide it.

A transport belongs to one federation, or to one shard or keeper of it (``Topology.shard``, ``Topology.keeper``): then
updates and the lead are those of the shard; those of a keeper are what it is asked.

Methods are to be called from one thread, the one that runs the process's service; ``announce`` and ``send_status``
from any thread.
Publishing returns once the message is durable at the broker. A lost connection is restored inside: a method waits
for it, and raises BrokerRefused only when waiting cannot help. A worker also waits for a missing queue; the
aggregator, which made the queue, gets a QueueMissing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from broker.wire import Buffer, keeper_in, shard_in


class Source(StrEnum):
    """Where a delivery comes from."""

    MODELS = "models"
    UPDATES = "updates"
    PRESENCE = "presence"
    PARTS = "parts"
    """Of blobs, see ``Transport.fetch``."""
    COMMANDS = "commands"
    """What people ask of the run; for the root aggregator."""


class BlobNews(StrEnum):
    """What is to be said of a blob that is being fetched, besides its parts; in words that follow its name.

    After all but QUIET, no more parts come.
    """

    GONE = "is gone"
    UNREADABLE = "cannot be read"
    OUT_OF_ORDER = "has a part out of order"
    INTERRUPTED = "was interrupted by the loss of the connection"
    QUIET = "has no new part"
    """The answer to ``ask_after``."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One received message."""

    source: Source
    body: Buffer
    sender: str = ""
    """The worker it is from, according to the broker (by routing key); ``partial.<shard>`` for a partial sum,
    ``release.<keeper>`` for a keeper's answer, ``keeper.<keeper>`` for what a keeper is asked.

    Of PARTS: the name of the blob.
    """
    tag: int = 0
    """For the ack, valid within its ``session``; only the transport uses them."""
    session: int = 0
    num_returns: int = 0
    """How often it was delivered before and returned to the queue."""
    cut_from: int = 0
    """The size of the message, if ``body`` is only its beginning; 0: it is all there."""

    @property
    def num_bytes(self) -> int:
        """The size of the message as it was sent."""
        return self.cut_from or len(self.body)

    part: int = 0
    """Of PARTS: which part of its blob this is."""
    news: BlobNews | None = None
    """Of PARTS: something else than a part."""

    @property
    def shard(self) -> int | None:
        """The shard whose partial sum this is; None if it is an update."""
        return shard_in(self.sender)

    @property
    def keeper(self) -> str | None:
        """The keeper whose answer this is; None if it is none."""
        return keeper_in(self.sender)


ANSWERS_WITHIN_S = 9.0
"""How long somebody who looks waits for a broker of which nodes may be down."""
MAX_COMMAND_BYTES = 2**15
"""More than any command takes."""
BEGINNING_BYTES = 2**16
"""What is kept of a message that is too long to be an update: enough to see what it is."""


def received(delivery: Delivery, most_bytes: int | None) -> Delivery:
    """The delivery, or only its beginning if it has more than ``most_bytes`` (None: however long it is)."""
    return delivery if most_bytes is None or len(delivery.body) <= most_bytes else beginning_of(delivery)


def beginning_of(delivery: Delivery) -> Delivery:
    """The first bytes of a message, at most BEGINNING_BYTES; the rest takes no memory any more."""
    if len(delivery.body) <= BEGINNING_BYTES:
        return delivery
    body = bytes(memoryview(delivery.body)[:BEGINNING_BYTES])
    return replace(delivery, body=body, cut_from=delivery.num_bytes)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One update that was set aside."""

    body: Buffer
    reason: str
    sender: str


@dataclass(frozen=True, slots=True)
class Queued:
    """What the broker counts for one queue."""

    num_waiting: int
    """Messages that nobody has received yet."""
    num_readers: int
    """Consumers; the results queue has the aggregator that leads, or none."""
    fault: str | None = None
    """Why the broker cannot count although the queue is there, as where its node is down; then both numbers are 0."""


class BlobUpload(Protocol):
    """A body on its way to the broker, part by part. Nobody reads it before a message names it."""

    def write(self, part: bytes) -> None:
        """Sends the next part; waits only while several are on their way. BlobLost if somebody deleted the blob."""

    def finish(self) -> str:
        """Waits until the broker has all parts; returns the name under which it has them, see ``open_blob``."""


class Transport(Protocol):
    """The broker, as seen by one process."""

    def declare(self) -> None:
        """Makes every queue and stream that is missing. For the aggregator.

        A partial aggregator or a keeper makes none: it waits until they are there.
        """

    def remove(self) -> None:
        """Deletes what ``declare`` made, with all messages, and stops receiving. For the last process on the queue.

        Blobs stay; updates received and not acked are gone, too.
        """

    def check(self) -> None:
        """Raises BrokerUnreachable, BrokerRefused or QueueMissing unless the model stream (a keeper's queue) is there.

        Not the results queue: RabbitMQ tells of a queue only those who may do something with it.
        """

    def lead(self) -> bool:
        """Becomes the one aggregator of this queue; False while another one leads.

        Leadership ends with the connection: from then on every method raises LeadershipLost.
        """

    def listen(self, *sources: Source, prefetch: int = 16, most_bytes: int | None = None) -> None:
        """Starts receiving from these sources; ``prefetch`` bounds the updates received and not yet acked.

        Of messages with more than ``most_bytes``, which can be no updates, only the beginning is delivered.
        MODELS begins with the newest head and goes on with later ones.
        """

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        """The next delivery, or None after ``timeout_s`` (None: waits forever; 0: does not wait)."""

    def wake(self) -> None:
        """Makes a waiting ``receive`` return None. May be called from any thread, and from a signal handler."""

    def give_up_waiting(self) -> None:
        """Makes methods that wait for an absent broker raise BrokerUnreachable. Safe in a signal handler."""

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Lets the broker forget these updates or commands.

        Those delivered before a reconnect are delivered again instead.
        """

    def drop(self, delivery: Delivery) -> None:
        """Acks an update that nobody needs, soon, together with others: for a flood of them costs less so."""

    def give_back(self) -> None:
        """Puts all updates and commands received and not acked back onto the queue; they are delivered again."""

    def set_aside(self, delivery: Delivery, reason: str) -> None:
        """Moves an update to the dead letters, with its reason, and acks it once it is there.

        Does not wait for that; ``close`` and ``give_back`` do. Why it cannot be there is raised by ``receive``.
        """

    def ignore(self, sender: str) -> None:
        """From now on drops this sender's updates as they arrive, where that is cheaper than delivering them.

        Some may be delivered all the same. Lasts until ``heed_all``.
        """

    def heed_all(self) -> dict[str, tuple[int, int]]:
        """Ignores nobody any more; returns how many updates of whom were dropped, and their bytes."""

    def newest_head(self) -> Buffer | None:
        """The body of the newest message of the model stream; None if there is none. For the aggregator."""

    def broadcast(self, body: bytes) -> None:
        """Appends a model head to the stream."""

    def send(self, body: bytes, *, worker: str, num_shards: int = 0) -> None:
        """Puts an update onto the results queue, or onto that of the worker's shard."""

    def send_partial(self, body: bytes, *, shard: int) -> None:
        """Puts a shard's partial sum onto the root's results queue."""

    def send_request(self, body: bytes, *, keeper: str) -> None:
        """Puts what is asked of a keeper onto its queue."""

    def send_release(self, body: bytes, *, keeper: str) -> None:
        """Puts a keeper's answer onto the root's results queue."""

    def send_command(self, body: bytes) -> None:
        """Puts a command onto the queue that the aggregator reads. QueueMissing if there is none."""

    def announce(self, body: bytes, *, worker: str) -> None:
        """Sends a sign of life if that is possible right now; never waits, never fails.

        Where no aggregator receives it, nobody keeps it.
        """

    def send_status(self, body: bytes) -> None:
        """Replaces the aggregator's status; never waits, never fails.

        May be called from any thread, like ``announce``.
        """

    def read_status(self, *, within_s: float = ANSWERS_WITHIN_S) -> Buffer | None:
        """The aggregator's last status; None if there is none yet. QueueMissing without its stream.

        A BrokerUnreachable if there is no answer in time.
        """

    def queued(self, names: Sequence[str], *, within_s: float = ANSWERS_WITHIN_S) -> dict[str, Queued]:
        """The counts of these queues, by name; a queue that is missing or refused to us is left out.

        A BrokerUnreachable if there is no answer in time; ``within_s`` is for all together.
        """

    def open_blob(self, name: str) -> BlobUpload:
        """Begins to store parts under ``name``, replacing what was there.

        Where the broker can no longer use that name, or somebody else holds it, ``.1``, ``.2``, … is appended to it.
        """

    def write_blob(self, name: str, parts: Iterable[bytes]) -> str:
        """Stores all parts; returns the name under which they are, see ``open_blob``."""
        upload = self.open_blob(name)
        for part in parts:
            upload.write(part)
        return upload.finish()

    def read_blob(self, name: str, num_parts: int) -> Iterator[Buffer]:
        """The parts of a blob in order, each once. BlobLost if it is not there, ends early or has a part out of order.

        Each part has its time, and only a new one counts. After ``give_up_waiting`` a BrokerUnreachable.
        """

    def fetch(self, name: str, num_parts: int) -> None:
        """Begins to read a blob beside everything else: ``receive`` gives its parts, in order, each once.

        Several may be fetched at a time; what ``receive`` has not handed out takes two parts a blob. A part that has
        not been written yet is waited for. What goes wrong comes as ``BlobNews``. When the connection is lost, or
        after ``give_back``, all fetching is over, as all updates not yet acked are delivered again.
        """

    def ask_after(self, name: str) -> None:
        """Asks the broker for parts it has sent of a blob that is being fetched: after these, QUIET is received.

        Unless the connection turns out to be lost: so an answer says that it is the blob which is late.
        """

    def stop_fetching(self, name: str) -> None:
        """Nothing more of this blob is received."""

    def delete_blobs(self, names: Sequence[str]) -> None:
        """Deletes these blobs, as far as they exist."""

    def close(self) -> None:
        """Disconnects; updates and commands received and not acked go back onto the queue."""
