"""The partial aggregator of one shard: folds the updates of its workers, and sends their exact sum to the root.

It judges nothing and keeps nothing. What it is sure of, a first update of a worker for the open round that fits, it
folds; everything else, stale, double or broken, it passes on to the root as it came. Its commit is the message: sum
and rows are one message on the root's queue, which the broker confirms when it is on the disk; only then are the
updates acked. Killed before, they come again; killed between, they come again although they are in a sum that was
sent. So a partial sums up only rounds that opened while it led: the updates of the one that was open when it began
are passed on one by one, and the root, which knows every update by its key, counts each once.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aggregator.prefetch import affordable_prefetch
from aggregator.rounds import (
    ExactSum,
    Expected,
    Kernel,
    Update,
    base_weight_of,
    folded_of,
    kernel,
    partial_head,
    read_update,
    send_partial,
)
from aggregator.run import newest_head
from aggregator.settings import AggregatorSettings
from broker import Delivery, Source, Transport
from broker.states import Encoding
from broker.wire import Folded, ModelHead, Specs, Topology, UpdateHead, decode, delta_specs, num_bytes_of, shard_of
from console import IS_SHOWN, BlobLost, MalformedMessage, MessageError, UnfitMessage

log = logging.getLogger(__name__)

_SUSPECT_AFTER = 3
"""A message that came back so often may be what kills us; the root has a way to find out."""

_UNKNOWN_INSTANCE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a partial aggregator is, for those who look on."""

    run_id: str = ""
    round: int = 0
    num_rounds: int = 0
    num_folded: int = 0
    """Updates of this round that are in a sum."""
    num_sums: int = 0
    """Sums that the root has, of all rounds."""
    num_passed_on: int = 0
    """Updates that went to the root as they came, of all rounds."""


class PartialAggregator:
    """One shard's, until the run is finished. ``step()`` handles one event."""

    def __init__(
        self, settings: AggregatorSettings, transport: Transport, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_finished = False
        self.progress = Progress()
        """Any thread may read it."""
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._kernel = kernel() if settings.compiled_fold else None
        self._shard, self._num_shards = settings.own_shard
        self._root = Topology(settings.queue)
        self._is_stopping = False
        self._prefetch: int | None = None
        self._model: ModelHead | None = None
        self._expected: Expected
        self._encoding: Encoding
        self._sums = False
        """Whether updates for the open round are folded, and not passed on one by one."""
        self._seen: tuple[str, int] = ("", 0)
        """The run, and the last of its rounds that may have been summed up before."""
        self._known: dict[str, str] = {}
        """Worker -> instance, of the updates for the open round that were folded or passed on."""
        self._usual: set[str] = set()
        """The workers that answered in the round before."""
        self._pending: _Pending
        self._sequence = 0
        self._early: list[tuple[Delivery, float]] = []
        """Updates for a model that we have not heard of yet, and until when they wait for it."""
        self._passed_early: dict[tuple[str, int, str], str] = {}

    # -- the loop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Sees which round is open, and takes updates as soon as there is a model to say what they look like."""
        self._transport.declare()
        newest = newest_head(self._transport)
        if newest is not None:
            self._seen = (newest[0].run_id, newest[0].round)
        self._transport.listen(Source.MODELS)
        log.info("partial aggregator of shard %d of %d, queue '%s'", self._shard, self._num_shards, self._root.queue)

    def run(self) -> None:
        """Steps until the run is finished, or ``stop`` is called; what was not sent goes back onto the queue."""
        while not (self.is_finished or self._is_stopping):
            self.step(self.time_left())

    def stop(self) -> None:
        """Ends ``run`` after the event it is at. May be called from a signal handler."""
        self._is_stopping = True
        self._transport.give_up_waiting()
        self._transport.wake()

    def close(self) -> None:
        """Leaves the queue; what was not acked is delivered again."""
        self._transport.close()

    def step(self, timeout_s: float | None = 0.0) -> bool:
        """Handles the next event if one comes within ``timeout_s``; then does what is due. True if one came."""
        delivery = self._transport.receive(timeout_s)
        if delivery is not None and delivery.source is Source.MODELS:
            self._look_at(delivery)
        elif delivery is not None:
            self._take(delivery)
        self._do_what_is_due()
        return delivery is not None

    def time_left(self) -> float | None:
        """Seconds until something is due, if nothing comes before; None: nothing is."""
        times = [until for _, until in self._early[:1]]
        if self._model is not None and self._pending.updates:
            times.append(self._pending.last_at + self._settings.flush_s)
        return max(0.0, min(times) - self._clock()) + 0.001 if times else None

    def _do_what_is_due(self) -> None:
        now = self._clock()
        while self._early and now >= self._early[0][1]:
            self._pass_on_early(self._early.pop(0)[0])
        if self._model is None or not self._pending.updates:
            return
        have_all_answered = self._usual <= self._known.keys() and any(map(self._pending.has, self._usual))
        is_idle = now >= self._pending.last_at + self._settings.flush_s
        is_window_full = len(self._pending.deliveries) + len(self._early) >= (self._prefetch or 1)
        if have_all_answered or is_idle or is_window_full:
            self._send()

    # -- models ---------------------------------------------------------------------------------------------

    def _look_at(self, delivery: Delivery) -> None:
        """Goes over to a newer model, once what was folded for the one before is sent."""
        try:
            head, _ = decode(delivery.body, ModelHead)
        except MalformedMessage as error:
            log.warning("a message on the model stream is dropped: %s", error)
            return
        known = self._model
        if head.run != self._settings.run:
            return
        if known is not None and known.run_id == head.run_id and head.position <= known.position:
            return
        if known is not None and self._pending.updates:
            self._send()
        if head.is_finished:
            log.info("run %s is finished after %d rounds", head.run_id, head.round - 1)
            self.is_finished = True
            return
        self._open(head)
        early, self._early = self._early, []
        for waiting, _ in early:
            self._take(waiting)

    def _open(self, head: ModelHead) -> None:
        is_first_time = self._seen[0] != head.run_id or head.round > self._seen[1]
        if is_first_time:
            self._seen = (head.run_id, head.round)
        if head.num_shards != self._num_shards:
            log.warning("the root has %d shards, and this is one of %d", head.num_shards, self._num_shards)
        self._sums = is_first_time and head.num_shards == self._num_shards
        self.progress = replace(
            self.progress, run_id=head.run_id, round=head.round, num_rounds=head.num_rounds, num_folded=0
        )
        self._model = head
        self._encoding = Encoding(delta_specs(head.tensors), head.compression)
        self._expected = Expected(head.run_id, self._encoding, self._root)
        self._usual = set(self._known)
        self._passed_early = {
            key: instance
            for key, instance in self._passed_early.items()
            if key[0] == head.run_id and key[1] >= head.round
        }
        self._known = {
            worker: instance for (_, number, worker), instance in self._passed_early.items() if number == head.round
        }
        self._pending = _Pending(self._encoding.folded, self._kernel)
        self._sequence = 0
        prefetch = affordable_prefetch([num_bytes_of(self._encoding.encoded)], head.cap(self._settings.inline_cap))
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            self._transport.listen(Source.MODELS, Source.UPDATES, prefetch=prefetch)

    # -- updates --------------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        """Folds an update, or passes it on."""
        if self._model is None or delivery.num_returns >= _SUSPECT_AFTER:
            self._known.setdefault(delivery.sender, _UNKNOWN_INSTANCE)
            self._pass_on(delivery)
            return
        try:
            update = read_update(delivery, self._expected, round_number=self._model.round)
        except MessageError:
            if self._is_early(delivery):
                self._early.append((delivery, self._clock() + self._settings.flush_s))
            else:
                self._pass_on(delivery)
            return
        known_instance = self._known.get(update.head.worker)
        is_of_other_shard = shard_of(update.head.worker, self._num_shards) != self._shard
        if update.head.round != self._model.round or not self._sums or is_of_other_shard:
            self._pass_on(delivery)
        elif known_instance is None:
            self._fold(update, delivery)
        elif known_instance != update.head.instance:
            self._send()  # so that the root gets the first one first
            self._pass_on(delivery)
        elif self._pending.has(update.head.worker):
            self._pending.deliveries.append(_tag_of(delivery))  # the first delivery may be of a lost session
        else:
            self._transport.ack([delivery])
        if update.head.round == self._model.round:
            self._known.setdefault(update.head.worker, update.head.instance)

    def _is_early(self, delivery: Delivery) -> bool:
        """Whether it may be of a round that has begun and whose model is on its way to us."""
        head = _head_of(delivery)
        model = self._model
        return head is not None and model is not None and (head.run_id != model.run_id or head.round > model.round)

    def _pass_on_early(self, delivery: Delivery) -> None:
        head = _head_of(delivery)
        assert head is not None
        self._passed_early[head.run_id, head.round, head.worker] = head.instance
        self._pass_on(delivery)

    def _pass_on(self, delivery: Delivery) -> None:
        """Gives it to the root as it came."""
        self._transport.send(bytes(delivery.body), worker=delivery.sender)
        self._transport.ack([delivery])
        self.progress = replace(self.progress, num_passed_on=self.progress.num_passed_on + 1)

    def _fold(self, update: Update, delivery: Delivery) -> None:
        assert self._model is not None
        begun = False
        weight = float(base_weight_of(update.head, self._model.weighting))
        try:
            for offset, piece in update.pieces(self._transport):
                self._pending.sum.add(offset, piece, weight)
                begun = True
        except (UnfitMessage, BlobLost) as error:
            log.warning("update from '%s' is passed on as it is: %s", delivery.sender, error)
            self._pass_on(delivery)
            if begun:
                self._start_over()
            return
        self._pending.note(update, delivery, now=self._clock())
        self.progress = replace(self.progress, num_folded=self.progress.num_folded + 1)
        fields = {"round": update.head.round, "worker": update.head.worker, "num_samples": update.head.num_samples}
        log.info("round %3d ← %-16s %6d samples", *fields.values(), extra=fields | {IS_SHOWN: True})

    # -- sending --------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Sends the sum of what was folded since the last time, and then acks it."""
        pending, model = self._pending, self._model
        assert model is not None
        if pending.updates:
            head = partial_head(model, pending.sum, pending.updates, shard=self._shard, sequence=self._sequence)
            caps = {"inline_cap": model.cap(self._settings.inline_cap), "part_bytes": self._settings.part_bytes}
            try:
                send_partial(head, pending.sum, self._transport, self._root, **caps)
            except BlobLost as error:  # by the root, which has closed the round
                log.warning("round %3d: the partial sum was not sent to its end: %s", model.round, error)
                self._start_over()
                return
            except MalformedMessage as error:
                log.warning("round %3d: the updates are passed on one by one: %s", model.round, error)
                self._sums = False
                self._start_over()
                return
            self._sequence += 1
            self.progress = replace(self.progress, num_sums=self.progress.num_sums + 1)
            num_samples = sum(update.num_samples for update in pending.updates)
            log.info("round %3d ⇒ %6d samples of %d updates", model.round, num_samples, len(pending.updates))
        self._transport.delete_blobs(pending.blobs)
        self._transport.ack(pending.deliveries)
        self._pending = _Pending(self._encoding.folded, self._kernel)

    def _start_over(self) -> None:
        """Forgets what was folded and not sent, and has it delivered again."""
        for folded in self._pending.updates:
            del self._known[folded.worker]
        self.progress = replace(self.progress, num_folded=self.progress.num_folded - len(self._pending.updates))
        self._pending = _Pending(self._encoding.folded, self._kernel)
        self._early.clear()
        self._transport.give_back()


@dataclass(slots=True)
class _Pending:
    """What was folded and not sent."""

    specs: Specs
    kernel: Kernel | None
    sum: ExactSum = field(init=False)
    updates: list[Folded] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    last_at: float = 0.0
    """When the last one came."""

    def __post_init__(self) -> None:
        self.sum = ExactSum(self.specs, kernel=self.kernel)

    def has(self, worker: str) -> bool:
        return any(folded.worker == worker for folded in self.updates)

    def note(self, update: Update, delivery: Delivery, *, now: float) -> None:
        self.sum.end_update()
        self.updates.append(folded_of(update))
        self.deliveries.append(_tag_of(delivery))
        if update.blob_name is not None:
            self.blobs.append(update.blob_name)
        self.last_at = now


def _head_of(delivery: Delivery) -> UpdateHead | None:
    try:
        return decode(delivery.body, UpdateHead)[0]
    except MalformedMessage:
        return None


def _tag_of(delivery: Delivery) -> Delivery:
    """What is needed to ack it; its body would take memory until then."""
    return replace(delivery, body=b"")
