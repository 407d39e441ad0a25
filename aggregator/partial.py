"""The partial aggregator of one shard: folds the updates of its workers, and sends their exact sum to the root.

It judges nothing, and stores nothing but bodies on their way, until they are whole. It folds only what is beyond doubt,
a worker's first fitting update for the open round; everything else, stale, duplicate or broken, it passes on to the
root unchanged. Its commit is the message: sum and rows are one message on the root's queue, which the broker confirms
once it is on the disk; only then are the updates acked. If the partial is killed before the message is confirmed, the
updates are delivered again; if it is killed between confirmation and ack, they are delivered again although a sum that
was sent contains them. So a partial sums only rounds that opened while it led: updates for the round that was open when
it started are passed on one by one, and the root, which knows every update by its key, counts each once.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace

from aggregator.bodies import Arrivals, Body, Settled
from aggregator.config import PartialConfig
from aggregator.events import (
    PartialWatcher,
    ShardFinished,
    ShardLed,
    ShardRoundOpened,
    SumDropped,
    SumSent,
    UpdatePassedOn,
    UpdateSummed,
    unwatched,
)
from aggregator.masking import RingSum
from aggregator.opening import newest_head
from aggregator.rounds import (
    ExactSum,
    Expected,
    PartialSender,
    Update,
    add_to,
    affordable_prefetch,
    folded_of,
    is_answer,
    largest_message,
    part_bytes_of,
    read_update,
)
from aggregator.senders import NOBODY, SUSPECT_AFTER, Excluding, Quota, admission_by, is_by_its_sender
from aggregator.weighing import Weigher
from broker import Delivery, Source, Transport
from broker.states import Encoding, MaskedEncoding, encoding_of
from broker.wire import (
    MAX_HEADER_BYTES,
    Folded,
    ModelHead,
    Specs,
    UpdateHead,
    decode_from,
    num_bytes_of,
    shard_of,
)
from console import IDLE_BEAT_S, IS_SHOWN, BlobLost, MalformedMessage, MessageError, QueueMissing, UnfitMessage

log = logging.getLogger(__name__)

_UNKNOWN_INSTANCE = ""


class PartialAggregator:
    """Serves one shard until the run is finished. ``step()`` handles one event; ``beat`` is called with every turn."""

    def __init__(
        self,
        config: PartialConfig,
        transport: Transport,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_event: PartialWatcher = unwatched,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_finished = False
        self._beat = beat
        self._config = config
        self._transport = transport
        self._clock = clock
        self._on_event = on_event
        self._sender = PartialSender(
            transport=transport,
            topology=config.root,
            shard=config.shard,
            membership=config.membership,
            part_bytes=config.part_bytes,
        )
        self._admission = Excluding(admission_by(config.membership.rosters, config.admission))
        self._is_stopping = False
        self._prefetch = self._most_bytes = 0
        """0 before there is a model, when no updates are requested."""
        self._round: _ShardRound | None = None
        """None before there is a model."""
        self._seen: tuple[str, int] = ("", 0)
        """The run, and the last of its rounds that may have been summed before."""
        self._early: list[tuple[Delivery, float]] = []
        """Updates for a model that has not arrived yet, and until when they wait for it."""
        self._passed_early: dict[tuple[str, int, str], str] = {}
        """(run id, round, worker) -> instance, of updates passed on before their model arrived."""
        self._bodies: Arrivals[Update] = Arrivals(
            transport, folder=None, limits=config.body_limits, clock=clock, on_event=on_event
        )

    # -- the loop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Looks up which round is open, and takes updates as soon as there is a model to say what they look like."""
        newest = self._newest_head()
        if newest is not None:
            self._seen = (newest.run_id, newest.round)
        config = self._config
        log.info("partial aggregator of shard %d of %d, queue '%s'", config.shard, config.num_shards, config.root.queue)
        self._on_event(ShardLed(shard=config.shard, num_shards=config.num_shards, queue=config.root.queue))
        self._transport.declare()
        self._transport.listen(Source.MODELS)

    def _newest_head(self) -> ModelHead | None:
        """The head of the open round, asked for before the wait for the root: what that opens then, nobody summed."""
        try:
            newest = newest_head(self._transport, self._config.membership.trust)
        except QueueMissing:
            return None
        return None if newest is None else newest[0]

    def run(self) -> None:
        """Steps until the run is finished or ``stop`` is called; updates in no sent sum go back onto the queue."""
        while not (self.is_finished or self._is_stopping):
            self._beat()
            left_s = self.time_left()
            self.step(IDLE_BEAT_S if left_s is None else min(left_s, IDLE_BEAT_S))

    def stop(self) -> None:
        """Ends ``run`` after the current event. May be called from a signal handler."""
        self._is_stopping = True
        self._transport.give_up_waiting()
        self._transport.wake()

    def close(self) -> None:
        """Leaves the queue; unacked updates are delivered again."""
        self._bodies.clear()
        self._transport.close()

    def step(self, timeout_s: float | None = 0.0) -> bool:
        """Handles the next event if one arrives within ``timeout_s``, then does what is due. True if one arrived."""
        delivery = self._transport.receive(timeout_s)
        if self._admission.look():
            self._leave_out()
        if delivery is not None and delivery.source is Source.MODELS:
            self._see_model(delivery)
        elif delivery is not None and delivery.source is Source.PARTS:
            self._bodies.take(delivery)
        elif delivery is not None:
            self._take(delivery)
        for settled in self._bodies.settle():
            self._take_up(settled)
        self._do_what_is_due()
        return delivery is not None

    def time_left(self) -> float | None:
        """Seconds until something is due, if no event arrives before; None: nothing is due."""
        now, of_bodies_s = self._clock(), self._bodies.time_left()
        times = [until - now for _, until in self._early[:1]] + ([] if of_bodies_s is None else [of_bodies_s])
        if self._round is not None and self._round.pending.updates:
            times.append(self._round.pending.last_at + self._config.flush_s - now)
        return max(0.0, min(times)) + 0.001 if times else None

    def _do_what_is_due(self) -> None:
        now = self._clock()
        while self._early and now >= self._early[0][1]:
            self._pass_on_early(self._early.pop(0)[0])
        current = self._round
        if current is None or not current.pending.updates:
            return
        is_idle = now >= current.pending.last_at + self._config.flush_s
        num_held = len(current.pending.deliveries) + len(self._early) + self._bodies.num_held_up
        is_window_full = num_held >= self._prefetch
        if current.has_all_usual or is_idle or is_window_full or current.pending.is_header_full:
            self._send(current)

    # -- models ---------------------------------------------------------------------------------------------

    def _see_model(self, delivery: Delivery) -> None:
        """Switches to a newer model, once the sum for the one before is sent."""
        try:
            head = decode_from(delivery.body, ModelHead, trust=self._config.membership.trust).header
            encoding = encoding_of(head)
        except (MessageError, ValueError) as error:
            log.warning("a message on the model stream is dropped: %s", error)
            return
        current = self._round
        if head.run != self._config.run:
            return
        if current is not None and current.model.run_id == head.run_id and head.position <= current.model.position:
            return
        if current is not None and current.pending.updates:
            self._send(current)
        self._admission.exclude(dict.fromkeys(head.excluded, 0))
        if head.is_finished:
            log.info("run %s is finished after %d rounds", head.run_id, head.round - 1)
            self.is_finished = True
            self._on_event(ShardFinished(run_id=head.run_id, num_rounds=head.round - 1))
            return
        for update, waiting in self._bodies.clear():  # for the round before: the root may count it all the same
            if current is not None and update.head.round == current.number:
                current.known.setdefault(update.head.worker, update.head.instance)
            self._pass_on(waiting)
        self._open(head, encoding)
        early, self._early = self._early, []
        for delivery_before, _ in early:
            self._take(delivery_before)

    def _open(self, head: ModelHead, encoding: Encoding | MaskedEncoding) -> None:
        """Begins to sum updates for a model, unless some may have been summed before."""
        is_first_time = self._seen[0] != head.run_id or head.round > self._seen[1]
        if is_first_time:
            self._seen = (head.run_id, head.round)
        if head.num_shards != self._config.num_shards:
            log.warning(
                "the root has %d shards, but this one is of %d; passing updates on one by one",
                head.num_shards,
                self._config.num_shards,
            )
        self._passed_early = {
            key: instance
            for key, instance in self._passed_early.items()
            if key[0] == head.run_id and key[1] >= head.round
        }
        self._round = _ShardRound(
            model=head,
            expected=self._expected(head, encoding),
            new_sum=self._config.new_sum if head.masking is None else functools.partial(RingSum, masking=head.masking),
            are_summed=is_first_time and head.num_shards == self._config.num_shards,
            usual=set() if self._round is None else set(self._round.known),
            known={
                worker: instance for (_, number, worker), instance in self._passed_early.items() if number == head.round
            },
        )
        prefetch = affordable_prefetch([num_bytes_of(encoding.encoded)], head.cap(self._config.inline_cap))
        most_bytes = largest_message(encoding.encoded, sum_bytes=None)
        if (prefetch, most_bytes) != (self._prefetch, self._most_bytes):
            self._prefetch, self._most_bytes = prefetch, most_bytes
            self._transport.listen(Source.MODELS, Source.UPDATES, prefetch=prefetch, most_bytes=most_bytes)
        self._on_event(ShardRoundOpened(run_id=head.run_id, round=head.round, num_rounds=head.num_rounds))

    def _expected(self, head: ModelHead, encoding: Encoding | MaskedEncoding) -> Expected:
        return Expected(
            head.run_id,
            encoding,
            self._config.root,
            (part_bytes_of(head),),
            model_sha256=lambda number: head.sha256 if number == head.round else None,
            membership=replace(self._config.membership, protection=head.protection),
        )

    # -- updates --------------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        """Folds an update, or passes it on."""
        current = self._round
        if current is not None and current.quota.is_used_up(delivery.sender):
            self._drop(current, delivery)
            return
        if current is None:
            self._pass_on(delivery)
            return
        if delivery.num_returns >= SUSPECT_AFTER:  # the root has a way to find out
            current.known.setdefault(delivery.sender, _UNKNOWN_INSTANCE)
            self._pass_on_or_drop(current, delivery, current.quota.pass_over(delivery.sender))
            return
        if is_answer(delivery):
            current.without_update.add(delivery.sender)
            self._pass_on_or_drop(current, delivery, current.quota.pass_over(delivery.sender))
            return
        try:
            update = read_update(delivery, current.expected, round_number=current.number)
        except MessageError as error:
            if not current.precedes(self._head_of(delivery)):
                is_kept = current.quota.keep(self._responsible_for(delivery, error))
                self._pass_on_or_drop(current, delivery, is_kept)
            elif current.quota.pass_over(delivery.sender):
                self._early.append((delivery, self._clock() + self._config.flush_s))
            else:
                self._drop(current, delivery)
        else:
            self._decide_on(current, update, delivery)

    def _take_up(self, settled: Settled[Update]) -> None:
        """Decides again on an update whose body is there by now; or passes it on, if that will not come."""
        current, update, delivery, body = self._round, settled.message, settled.delivery, settled.body
        assert current is not None  # without a model no body is waited for
        if body is None:
            log.warning("update from '%s' passed on unchanged: %s", delivery.sender, settled.reason)
            current.known.setdefault(update.head.worker, update.head.instance)
            self._pass_on_or_drop(current, delivery, current.quota.pass_over(delivery.sender))
            return
        update.received(body.num_blob_bytes)
        with contextlib.closing(body):
            self._decide_on(current, update, delivery, body)

    def _decide_on(self, current: "_ShardRound", update: Update, delivery: Delivery, body: Body | None = None) -> None:
        head, known_instance = update.head, current.known.get(update.head.worker)
        is_of_other_shard = shard_of(head.worker, self._config.num_shards) != self._config.shard
        keys = update.signer.keys if update.signer else ()  # revoked, perhaps, while the body was on its way
        is_ours = not is_of_other_shard and self._admission.admits(head.worker, keys) and current.chooses(head.worker)
        if head.round != current.number or not current.are_summed or not is_ours:
            self._pass_on_or_drop(current, delivery, current.quota.pass_over(delivery.sender))
        elif known_instance is None and body is None and self._bodies.has_to_wait(update):
            self._bodies.expect(update, delivery)
            return
        elif known_instance is None:
            self._fold(current, update, delivery, body or update.in_message)
        elif known_instance != head.instance:
            is_passed_on = current.quota.pass_over(delivery.sender)
            if is_passed_on:
                self._send(current)  # so that the root gets the worker's first update first
            self._pass_on_or_drop(current, delivery, is_passed_on)
        elif current.pending.has(head.worker):
            current.pending.deliveries.append(_tag_of(delivery))  # the first delivery may be from a lost session
        else:
            self._transport.ack([delivery])
        if head.round == current.number:
            current.known.setdefault(head.worker, head.instance)

    def _pass_on_or_drop(self, current: "_ShardRound", delivery: Delivery, is_passed_on: bool) -> None:
        if is_passed_on:
            self._pass_on(delivery)
        else:
            self._drop(current, delivery)

    def _head_of(self, delivery: Delivery) -> UpdateHead | None:
        """The head of an update, whatever model it is for; None if it is none, or not its sender's."""
        try:
            message = decode_from(delivery.body, UpdateHead, trust=self._config.membership.trust)
        except MessageError:
            return None
        is_by_sender = message.signer is None or message.signer.name == message.header.worker == delivery.sender
        return message.header if is_by_sender else None

    def _responsible_for(self, delivery: Delivery, error: MessageError) -> str:
        is_by_sender = is_by_its_sender(error, are_signed=self._config.membership.has_roster)
        return delivery.sender if is_by_sender else NOBODY

    def _drop(self, current: "_ShardRound", delivery: Delivery) -> None:
        """Drops a message of which the root has had enough of the kind in this round."""
        if not current.has_dropped:
            current.has_dropped = True
            log.warning(
                "round %3d: too many messages that cannot be summed, now from '%s'; dropping further ones",
                current.number,
                delivery.sender,
                extra={"round": current.number, "worker": delivery.sender},
            )
        self._transport.ack([delivery])

    def _pass_on_early(self, delivery: Delivery) -> None:
        head = self._head_of(delivery)
        if head is not None:  # its sender may have left the roster meanwhile
            self._passed_early[head.run_id, head.round, head.worker] = head.instance
        self._pass_on(delivery)

    def _pass_on(self, delivery: Delivery) -> None:
        """Sends an update to the root unchanged."""
        self._transport.send(bytes(delivery.body), worker=delivery.sender)
        self._transport.ack([delivery])
        self._on_event(UpdatePassedOn(worker=delivery.sender))

    def _fold(self, current: "_ShardRound", update: Update, delivery: Delivery, body: Body) -> None:
        begun_at = time.perf_counter()
        try:
            weight = current.weigher.weigh(update.head).weight
            add_to(current.pending.sum, update, body, [weight])
        except UnfitMessage as error:
            log.warning("update from '%s' passed on unchanged: %s", delivery.sender, error)
            self._pass_on(delivery)
            return
        current.pending.add(update, delivery, now=self._clock())
        head = update.head
        num_samples = head.num_samples if current.model.tells_of_sites else None
        about = "says nothing of its site" if num_samples is None else f"{num_samples:6d} samples"
        fields = {"round": head.round, "worker": head.worker}
        fields |= {} if num_samples is None else {"num_samples": num_samples}
        log.info("round %3d ← %-16s %s", head.round, head.worker, about, extra=fields | {IS_SHOWN: True})
        fold_s = time.perf_counter() - begun_at
        self._on_event(UpdateSummed(round=head.round, worker=head.worker, num_samples=num_samples, fold_s=fold_s))

    # -- sending --------------------------------------------------------------------------------------------

    def _send(self, current: "_ShardRound") -> None:
        """Sends the sum of the updates folded since the last one, then acks them."""
        pending = current.pending
        if pending.updates and not self._send_sum(current):
            return
        self._transport.delete_blobs(pending.blobs)
        self._transport.ack(pending.deliveries)
        current.begin_sum()

    def _send_sum(self, current: "_ShardRound") -> bool:
        """False if the sum cannot be sent; its updates are delivered again."""
        config, pending, model = self._config, current.pending, current.model
        begun_at = time.perf_counter()
        try:
            self._sender.send(
                pending.sum,
                pending.updates,
                model=model,
                sequence=current.num_sums,
                inline_cap=model.cap(config.inline_cap),
            )
        except BlobLost as error:  # the root deleted it when it closed the round
            log.warning("round %3d: the partial sum could not be sent in full: %s", model.round, error)
            self._start_over(current)
            return False
        except MalformedMessage as error:
            log.warning("round %3d: passing updates on one by one: %s", model.round, error)
            current.are_summed = False
            self._start_over(current)
            return False
        current.num_sums += 1
        num_samples = sum(update.num_samples for update in pending.updates) if model.tells_of_sites else None
        samples_of = "" if num_samples is None else f"{num_samples:6d} samples of "
        log.info("round %3d ⇒ %s%d updates", model.round, samples_of, len(pending.updates))
        self._on_event(
            SumSent(
                round=model.round,
                num_updates=len(pending.updates),
                num_samples=num_samples,
                seconds=time.perf_counter() - begun_at,
            )
        )
        return True

    def _leave_out(self) -> None:
        """Starts the sum over if somebody in it may not count any more; the root refuses what is passed on to it."""
        current = self._round
        left = (
            []
            if current is None
            else [u.worker for u in current.pending.updates if not self._admission.admits(u.worker)]
        )
        if current is None or not left:
            return
        log.warning(
            "round %3d: starting the sum over without %s, which may not count any more", current.number, ", ".join(left)
        )
        self._start_over(current)

    def _start_over(self, current: "_ShardRound") -> None:
        """Forgets the updates that were folded but not sent, and has them delivered again."""
        for folded in current.pending.updates:
            del current.known[folded.worker]
        self._on_event(SumDropped(num_updates=len(current.pending.updates)))
        current.begin_sum()
        self._early.clear()
        self._bodies.clear()
        self._transport.give_back()


class _ShardRound:
    """The round of the newest model, as its shard sees it."""

    def __init__(
        self,
        *,
        model: ModelHead,
        expected: Expected,
        new_sum: Callable[[Specs], ExactSum | RingSum],
        are_summed: bool,
        usual: Set[str],
        known: dict[str, str],
    ) -> None:
        self.model, self.expected = model, expected
        self._new_sum = new_sum
        self.are_summed = are_summed
        """Whether its updates are folded rather than passed on one by one."""
        self._usual = usual
        """The workers that answered in the round before."""
        self.weigher = replace(Weigher.parse(model.weighting), lr=model.local.lr)
        self.known = known
        """Worker -> instance, of the updates for this round that were folded or passed on."""
        self.without_update: set[str] = set()
        """Workers that answered without tensors, perhaps for an earlier round; the root judges that."""
        self.num_sums = 0
        self.quota = Quota(is_known=usual.__contains__)
        """Of messages that are not summed, and are passed on all the same for the root to judge."""
        self.has_dropped = False
        self.pending = _Pending(self._new_sum(expected.encoding.folded))

    @property
    def number(self) -> int:
        return self.model.round

    def chooses(self, worker: str) -> bool:
        """Whether this worker takes part in the round, as far as the head says; the root judges the others."""
        return self.model.chooses(worker)

    @property
    def has_all_usual(self) -> bool:
        """Whether all workers that answered in the round before have done so again, and any of it is still unsent.

        Where others take part in each round, there are no usual ones.
        """
        if self.model.draw is not None:
            return False
        have_answered = self.known.keys() | self.without_update
        return self._usual <= have_answered and any(map(self.pending.has, self._usual))

    def precedes(self, head: UpdateHead | None) -> bool:
        """Whether an update may be for a round that has begun but whose model is still on its way to us."""
        return head is not None and (head.run_id != self.model.run_id or head.round > self.model.round)

    def begin_sum(self) -> None:
        """Starts an empty sum: nothing is pending any more."""
        self.pending = _Pending(self._new_sum(self.expected.encoding.folded))


@dataclass(slots=True)
class _Pending:
    """What was folded but not yet sent."""

    sum: ExactSum | RingSum
    updates: list[Folded] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    seed_bytes: int = 0
    last_at: float = 0.0
    """When the last update arrived."""

    def has(self, worker: str) -> bool:
        return any(folded.worker == worker for folded in self.updates)

    @property
    def is_header_full(self) -> bool:
        """Whether the seeds of masked updates leave little room for more."""
        return self.seed_bytes > MAX_HEADER_BYTES // 2

    def add(self, update: Update, delivery: Delivery, *, now: float) -> None:
        self.updates.append(folded_of(update))
        self.seed_bytes += sum(map(len, update.head.seeds))
        self.deliveries.append(_tag_of(delivery))
        if update.blob_name is not None:
            self.blobs.append(update.blob_name)
        self.last_at = now


def _tag_of(delivery: Delivery) -> Delivery:
    """The delivery without its body, which would take memory until the ack."""
    return replace(delivery, body=b"")
