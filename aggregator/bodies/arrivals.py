"""Bodies on their way: each waits for its turn, is read from its blob as the parts come, and is given back when whole.

Reading holds up nobody. A few are read at a time, in the order in which their messages arrived, one of each sender; one
whose parts do not come does not count among them. Those of moderate size wait in memory until they are whole, others in
files. Every body has its limits: how long the next part may take, and the whole. Before one that is over its limit is
given up, the broker is asked once more: a connection that is lost, or parts that have come while the service was busy,
are not the sender's fault.

Messages about the same update keep their order: a sum is refused as a whole if one of its updates is in already.
"""

import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from aggregator.bodies.body import Body, ComingBody, InFile, InMemory, InMessage
from aggregator.bodies.limits import BodyLimits
from broker import BlobNews, Delivery, Transport
from broker.wire import BlobRef, Seal, Tensors
from console import Progress, Transferring, UnfitMessage

_MOST_PARTS = 2**12
"""Of a body that is in memory: each takes some 300 bytes beside its own."""


class WithBody(Protocol):
    """What names a body: an update or a partial sum. As text, it says whose it is."""

    @property
    def head(self) -> Tensors: ...

    @property
    def is_zstd(self) -> bool:
        """Whether each part is a zstd frame."""

    @property
    def seal(self) -> Seal | None:
        """What opens each part; None: they are in clear."""

    @property
    def keys(self) -> Set[tuple[int, str]]:
        """(base round, worker) of each update in it."""

    @property
    def in_message(self) -> InMessage:
        """Its body, if that is in the message."""


M = TypeVar("M", bound=WithBody)


@dataclass(frozen=True, slots=True)
class Settled(Generic[M]):
    """A message that waits no more: its ``body`` is whole, or None for the ``reason``."""

    message: M
    delivery: Delivery
    body: Body | None
    reason: str = ""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[M]):
    message: M
    delivery: Delivery

    @property
    def blob(self) -> BlobRef | None:
        return self.message.head.blob

    def has_to_wait_for(self, senders: Set[str], keys: Set[tuple[int, str]]) -> bool:
        return self.delivery.sender in senders or not keys.isdisjoint(self.message.keys)


@dataclass(slots=True, eq=False)
class _Reading(Generic[M]):
    name: str
    waiting: _Waiting[M]
    body: ComingBody
    progress: Progress
    begun_at: float
    last_at: float
    """When its last new part came, or when it was begun."""
    is_asked_after: bool = False


class Arrivals(Generic[M]):
    """The messages whose bodies are on their way. The files of these are in ``folder``, see ``InFile``."""

    def __init__(
        self,
        transport: Transport,
        *,
        folder: Path | None,
        limits: BodyLimits,
        clock: Callable[[], float],
        on_event: Callable[[Transferring], None],
    ) -> None:
        self._transport, self._folder, self._limits = transport, folder, limits
        self._clock, self._on_event = clock, on_event
        self._waiting: list[_Waiting[M]] = []
        self._reading: dict[str, _Reading[M]] = {}
        """Blob name -> what is read from it."""
        self._part_at = -math.inf
        """When the last new part of any came."""
        self._settled: list[Settled[M]] = []

    def __len__(self) -> int:
        """The number of messages that wait."""
        return len(self._waiting) + len(self._reading) + len(self._settled)

    def __contains__(self, delivery: Delivery) -> bool:
        return any(each.delivery is delivery for each in self._all())

    def _all(self) -> list[_Waiting[M]]:
        return [*(reading.waiting for reading in self._reading.values()), *self._waiting]

    @property
    def num_held_up(self) -> int:
        """The number of messages that wait while no part of any comes; 0 while some do."""
        return 0 if self._clock() < self._part_at + self._limits.active_s else len(self)

    def has_to_wait(self, message: M) -> bool:
        """Whether a message cannot be folded at once: its body is in a blob, or one before has the same update."""
        return message.head.blob is not None or any(
            not message.keys.isdisjoint(each.message.keys) for each in self._all()
        )

    def has_same(self, message: M, delivery: Delivery) -> bool:
        """Whether this very message, from the same session, waits already."""
        return any(
            each.delivery.sender == delivery.sender
            and each.delivery.session == delivery.session
            and each.message.head == message.head
            for each in self._all()
        )

    def expect(self, message: M, delivery: Delivery) -> None:
        """Has a message wait. If too many of its sender do, the oldest that is not being read is given up.

        The newest is worth more than the oldest: a worker that was restarted has written its blob anew. A shard may
        have any number.
        """
        waiting = [each for each in self._waiting if each.delivery.sender == delivery.sender]
        num_read = sum(each.waiting.delivery.sender == delivery.sender for each in self._reading.values())
        if delivery.shard is None and waiting and len(waiting) + num_read >= self._limits.num_of_sender:
            self._waiting.remove(waiting[0])
            reason = f"the bodies of {self._limits.num_of_sender} newer updates of '{delivery.sender}' are on their way"
            self._settled.append(Settled(waiting[0].message, waiting[0].delivery, None, reason))
        self._waiting.append(_Waiting(message, delivery))

    # -- what comes -----------------------------------------------------------------------------------------

    def take(self, delivery: Delivery) -> None:
        """Takes a part, or news of a blob."""
        reading = self._reading.get(delivery.sender)
        if reading is None:
            return
        match delivery.news:
            case None:
                self._add(reading, delivery)
            case BlobNews.QUIET:
                reading.is_asked_after = False
                reason = self._reason(reading)
                if reason is not None:
                    self._give_up(reading, reason)
            case BlobNews.INTERRUPTED:
                self._drop(reading.waiting.delivery.session)
            case news:
                self._give_up(reading, f"blob {delivery.sender} {news}")

    def _add(self, reading: _Reading[M], delivery: Delivery) -> None:
        before = reading.body.num_bytes
        try:
            reading.body.add(delivery.body)
        except UnfitMessage as error:
            self._give_up(reading, str(error))
            return
        reading.last_at = self._part_at = self._clock()
        reading.progress.add(reading.body.num_bytes - before)
        if reading.body.is_complete:
            del self._reading[delivery.sender]
            self._settled.append(Settled(reading.waiting.message, reading.waiting.delivery, reading.body))

    def _give_up(self, reading: _Reading[M], reason: str) -> None:
        self._stop(reading)
        self._settled.append(Settled(reading.waiting.message, reading.waiting.delivery, None, reason))

    def _stop(self, reading: _Reading[M]) -> None:
        del self._reading[reading.name]
        self._transport.stop_fetching(reading.name)
        reading.body.close()

    def _drop(self, session: int) -> None:
        """Forgets the messages of this session and earlier ones: they are delivered again."""
        for reading in tuple(self._reading.values()):
            if reading.waiting.delivery.session <= session:
                self._stop(reading)
        self._waiting = [each for each in self._waiting if each.delivery.session > session]

    def _reason(self, reading: _Reading[M]) -> str | None:
        now, num_bytes = self._clock(), reading.waiting.message.head.num_bytes
        return self._limits.reason(num_bytes, since_begin_s=now - reading.begun_at, since_part_s=now - reading.last_at)

    # -- what is due ----------------------------------------------------------------------------------------

    def settle(self) -> list[Settled[M]]:
        """Begins to read what has its turn; returns what has come to its end since the last time."""
        for name, reading in self._reading.items():
            if not reading.is_asked_after and self._reason(reading) is not None:
                reading.is_asked_after = True
                self._transport.ask_after(name)
        self._begin_those_whose_turn_it_is()
        settled, self._settled = self._settled, []
        return settled

    def _begin_those_whose_turn_it_is(self) -> None:
        now = self._clock()
        for waiting in self._ready():
            blob = waiting.blob
            if blob is None:
                self._waiting.remove(waiting)
                self._settled.append(Settled(waiting.message, waiting.delivery, waiting.message.in_message))
            elif (body := self._body_for(waiting.message, now)) is not None:
                self._waiting.remove(waiting)
                self._begin(waiting, blob, body, now)

    def _body_for(self, message: M, now: float) -> ComingBody | None:
        """Where a body goes that is read from now on; None if it has to wait.

        It does if too many are being read, or if others, whose parts come, take the memory that it could be in.
        """
        active, head = self._active(now), message.head
        if len(active) >= self._limits.num_active:
            return None
        if self._is_for_memory(head, self._free_bytes()):
            return InMemory(head, is_zstd=message.is_zstd, seal=message.seal)
        are_in_memory = any(isinstance(reading.body, InMemory) for reading in active)
        if are_in_memory and self._is_for_memory(head, self._limits.alone_bytes):
            return None
        return InFile(head, is_zstd=message.is_zstd, folder=self._folder, seal=message.seal)

    def _free_bytes(self) -> int:
        """Of the memory for bodies."""
        bodies = [each for each in self._reading.values() if isinstance(each.body, InMemory)]
        if not bodies:
            return self._limits.alone_bytes
        return self._limits.memory_bytes - sum(each.waiting.message.head.num_bytes for each in bodies)

    @staticmethod
    def _is_for_memory(head: Tensors, num_bytes: int) -> bool:
        """Whether a body is to be in memory that has so much room: not in thousands of little parts."""
        return (
            head.num_bytes <= num_bytes and head.blob is not None and head.blob.num_parts(head.num_bytes) <= _MOST_PARTS
        )

    def _ready(self) -> list[_Waiting[M]]:
        """Those that wait for no other message, in order."""
        ready = []
        before = [reading.waiting for reading in self._reading.values()]
        senders = {each.delivery.sender for each in before}
        keys = {key for each in before for key in each.message.keys}
        for waiting in self._waiting:
            if not waiting.has_to_wait_for(senders, keys):
                ready.append(waiting)
            senders.add(waiting.delivery.sender)
            keys |= waiting.message.keys
        return ready

    def time_left(self) -> float | None:
        """Seconds until something is due, if nothing comes before; None: nothing will be."""
        times = [
            min(reading.last_at + self._limits.stall_s, reading.begun_at + self._limits.longest_s(num_bytes))
            for reading in self._reading.values()
            if not reading.is_asked_after
            for num_bytes in (reading.waiting.message.head.num_bytes,)
        ]
        now = self._clock()
        if self._waiting and self._ready():
            times += [reading.last_at + self._limits.active_s for reading in self._active(now)]
        return max(0.0, min(times) - now) if times else None

    def clear(self) -> list[tuple[M, Delivery]]:
        """Stops reading; returns the messages that were waiting, which are the caller's again."""
        for settled in self._settled:
            if settled.body is not None:
                settled.body.close()
        waiting = [(each.message, each.delivery) for each in self._settled]
        waiting += [(each.message, each.delivery) for each in self._all()]
        for reading in tuple(self._reading.values()):
            self._stop(reading)
        self._waiting.clear()
        self._settled.clear()
        return waiting

    def _active(self, now: float) -> list[_Reading[M]]:
        return [each for each in self._reading.values() if now < each.last_at + self._limits.active_s]

    def _begin(self, waiting: _Waiting[M], blob: BlobRef, body: ComingBody, now: float) -> None:
        message, num_bytes = waiting.message, waiting.message.head.num_bytes
        progress = Progress(self._on_event, what=str(message), is_upload=False, total_bytes=num_bytes)
        self._reading[blob.name] = _Reading(blob.name, waiting, body, progress, begun_at=now, last_at=now)
        self._transport.fetch(blob.name, blob.num_parts(num_bytes))
