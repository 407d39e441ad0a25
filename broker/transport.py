"""What workers and aggregators ask of a broker. ``rabbitmq`` and ``memory.py`` both do it.

A transport is of one federation, or of one shard of it (``Topology.shard``): then updates and the lead are the shard's.

All methods may be called from one thread of the process, the one that runs its service; ``announce`` and
``send_status`` from any.
Publishing returns when the broker has the message for good. A broken connection is mended inside: a method
waits for it, and raises BrokerRefused only when waiting cannot help. A worker waits for a missing queue, too; to
the aggregator, which made it, that is a QueueMissing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from broker.wire import Buffer, shard_in


class Source(StrEnum):
    """Where a delivery comes from."""

    MODELS = "models"
    UPDATES = "updates"
    PRESENCE = "presence"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it came in."""

    source: Source
    body: Buffer
    sender: str = ""
    """The worker that the broker says it is from (from the routing key); ``partial.<shard>`` of a partial sum."""
    tag: int = 0
    """Ackable within its ``session``; both are the transport's own."""
    session: int = 0
    num_returns: int = 0
    """How often it was delivered before and came back."""

    @property
    def shard(self) -> int | None:
        """The shard whose partial sum this is; None if it is an update."""
        return shard_in(self.sender)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One update that was set aside."""

    body: Buffer
    reason: str
    sender: str


@dataclass(frozen=True, slots=True)
class Queued:
    """What a queue says of itself."""

    num_waiting: int
    """Messages that nobody has taken yet."""
    num_readers: int
    """Who takes them; of the results queue, the aggregator that leads, and nobody if none does."""


class BlobUpload(Protocol):
    """A body on its way to the broker, part by part. Nobody reads it before a message names it."""

    def write(self, part: bytes) -> None:
        """Takes the next part, and waits only while several are on their way. BlobLost if somebody deletes the blob."""

    def finish(self) -> str:
        """Returns when the broker has all parts: under which name it has them, see ``open_blob``."""


class Transport(Protocol):
    """The broker, as seen by one process."""

    def declare(self) -> None:
        """Makes every queue and stream that is not there. For the aggregator."""

    def remove(self) -> None:
        """Deletes what ``declare`` made, with all that is in it, and stops receiving. For the last who is on the queue.

        Blobs stay; an update that was received and not acked is gone, too.
        """

    def check(self) -> None:
        """Raises BrokerUnreachable, BrokerRefused or QueueMissing unless the results queue is there."""

    def lead(self) -> bool:
        """Becomes the one aggregator of this queue; False while another one is.

        Leadership ends with the connection: from then on everything raises LeadershipLost.
        """

    def listen(self, *sources: Source, prefetch: int = 16) -> None:
        """Starts receiving from these; ``prefetch`` bounds the updates that are received and not yet acked.

        MODELS begins at the newest head and goes on with those to come.
        """

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        """The next delivery, or None after ``timeout_s`` (None: waits for ever; 0: only looks)."""

    def wake(self) -> None:
        """Makes a ``receive`` that waits return None. May be called from any thread, and from a signal handler."""

    def give_up_waiting(self) -> None:
        """Makes methods that wait for a broker that is away raise BrokerUnreachable. Safe in a signal handler."""

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Lets the broker forget these updates. One that was delivered before a reconnect comes again instead."""

    def give_back(self) -> None:
        """Puts all updates that were received and not acked back onto the queue; they are delivered again."""

    def set_aside(self, delivery: Delivery, reason: str) -> None:
        """Moves an update to the dead letters, with its reason, and acks it."""

    def newest_head(self) -> Buffer | None:
        """The body of the newest message of the model stream; None if there is none. For the aggregator."""

    def broadcast(self, body: bytes) -> None:
        """Appends a model head to the stream."""

    def send(self, body: bytes, *, worker: str, num_shards: int = 0) -> None:
        """Puts an update onto the results queue, or onto that of the worker's shard."""

    def send_partial(self, body: bytes, *, shard: int) -> None:
        """Puts a shard's partial sum onto the root's results queue."""

    def announce(self, body: bytes, *, worker: str) -> None:
        """Sends a sign of life if that is possible right now; never waits, never fails."""

    def send_status(self, body: bytes) -> None:
        """Puts what the aggregator says of itself in place of what it said before; never waits, never fails.

        May be called from any thread, as ``announce``.
        """

    def read_status(self) -> Buffer | None:
        """What the aggregator last said of itself, which stays there for others.

        None if it never did, or if others who look had it for all of a second. QueueMissing without its queue.
        """

    def queued(self, names: Sequence[str]) -> dict[str, Queued]:
        """How many messages wait in these queues; one that is not there, or tells us nothing, is left out."""

    def open_blob(self, name: str) -> BlobUpload:
        """Begins to store parts under a name, in place of what was there.

        The name becomes that with ``.1``, ``.2``, … after it where the broker cannot use it any more.
        """

    def write_blob(self, name: str, parts: Iterable[bytes]) -> str:
        """Stores all parts under a name, or the one that ``open_blob`` found instead, which is returned."""
        upload = self.open_blob(name)
        for part in parts:
            upload.write(part)
        return upload.finish()

    def read_blob(self, name: str, num_parts: int) -> Iterator[Buffer]:
        """The parts of a blob in order, each once. BlobLost if it is not there or ends early."""

    def delete_blobs(self, names: Sequence[str]) -> None:
        """Frees these; one that does not exist is fine."""

    def close(self) -> None:
        """Leaves; what was received and not acked goes back onto the queue."""
