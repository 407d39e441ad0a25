"""The aggregator: takes updates as they come, closes rounds, and broadcasts what came of them.

Here the pure parts meet the wire. ``step()`` handles one event, an update, a sign of life or the clock.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from aggregator.broadcast import Broadcaster
from aggregator.evaluation import CentralEvaluation
from aggregator.events import (
    RoundClosed,
    RoundMoved,
    RoundOpened,
    RunEnded,
    RunOpened,
    RunStopped,
    Watcher,
    WorkerSeen,
    unwatched,
)
from aggregator.prefetch import affordable_prefetch
from aggregator.rounds import (
    Attendance,
    Close,
    ClosedBy,
    Expected,
    Extended,
    OpenRound,
    PartialSum,
    PartialUploads,
    Round,
    Update,
    Uploads,
    base_weight_of,
    decide,
    discount,
    kernel,
    next_values,
    read_partial,
    read_update,
)
from aggregator.run import Run, open_run
from aggregator.settings import AggregatorSettings
from aggregator.state import (
    Ledger,
    NewModel,
    RoundResult,
    StateDirectory,
    UpdateRow,
    Verdict,
    best_of,
    reason_to_stop,
    rounds_to_keep,
    summarize,
)
from broker import Delivery, Source, Transport
from broker.states import Encoding, State, is_finite, raw, shared_state, specs_of
from broker.wire import MAX_TENSORS, Buffer, Presence, decode, delta_specs, limb_bytes_of, num_bytes_of
from console import (
    IS_SHOWN,
    BlobLost,
    DamagedFile,
    MalformedMessage,
    MessageError,
    SettingsError,
    StateError,
    UnfitMessage,
    malloc,
)
from learning import Task

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 30.0
_TOLD_OF_ROUNDS = (
    "round",
    "closed_by",
    "num_folded",
    "num_late",
    "num_refused",
    "num_duplicate",
    "num_samples",
    "seconds",
    "metrics",
    "worker_metrics",
    "model_sha256",
)
"""As fields of a round's log line."""
_SUSPECT_AFTER = 3
_MAX_ATTEMPTS = 3


class Aggregator:
    """One run, from its first round, or from where its state directory left it, to its last.

    ``asks_again`` has all workers send their update for the open round once more, where those on the queue are lost.
    """

    def __init__(
        self,
        settings: AggregatorSettings,
        task: Task,
        transport: Transport,
        *,
        asks_again: bool = False,
        clock: Callable[[], float] = time.monotonic,
        on_event: Watcher = unwatched,
    ) -> None:
        self.is_finished = False
        self._settings = settings
        self._task = task
        self._transport = transport
        self._asks_again = asks_again
        self._clock = clock
        self._tell = on_event
        self._last_move: RoundMoved | None = None
        self._policy = settings.policy
        self._kernel = kernel() if settings.compiled_fold else None
        self._topology = settings.topology
        self._attendance = Attendance()
        self._uploads = Uploads()
        self._partial_uploads: PartialUploads
        self._is_stopping = False
        self._round: Round
        self._open_round: OpenRound
        self._report_at: float
        self._wake_at: float | None
        self._directory = StateDirectory(settings.state)
        self._ledger = Ledger(self._directory.ledger)

    # -- starting -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the run or goes on with it, and sees to it that its newest model is on the stream."""
        model = self._initial_model()
        shared = self._shared(model)
        self._specs = specs_of(shared)
        self._encoding = self._checked_encoding()
        self._prefetch = self._affordable_prefetch()
        self._transport.declare()
        self._transport.listen(Source.PRESENCE, Source.UPDATES, prefetch=self._prefetch)
        run = open_run(
            self._settings, shared, directory=self._directory, ledger=self._ledger, transport=self._transport
        )
        self._directory.remove_unfinished()
        self._epoch = run.epoch
        self._expected = Expected(run.run_id, self._encoding, self._topology)
        self._evaluate = CentralEvaluation(self._task, model)
        self._broadcaster = Broadcaster(
            run,
            self._settings,
            transport=self._transport,
            directory=self._directory,
            ledger=self._ledger,
            tell=self._tell,
        )
        log.info(
            "run %s, queue '%s', state in %s",
            run.run_id,
            self._settings.queue,
            self._directory.folder,
            extra={"run_id": run.run_id, "queue": self._settings.queue, IS_SHOWN: True},
        )
        self._ledger.record({"settings": self._plain_settings()})
        self._tell_opened(run)
        del model, shared
        self._give_back_memory()
        best = best_of(self._ledger.rounds(), self._settings.aim)
        self._best_so_far = [] if best is None else [self._ledger.round(best[1])]
        self._go_on_after(self._ledger.last_closed_round())

    def _tell_opened(self, run: Run) -> None:
        settings = self._settings
        self._tell(
            RunOpened(
                run=settings.run,
                run_id=run.run_id,
                queue=settings.queue,
                state=settings.state,
                num_rounds=settings.rounds,
                last_closed_round=self._ledger.last_closed_round(),
                closed=list(self._ledger.rounds()),
                aim=settings.aim,
            )
        )

    def _initial_model(self) -> nn.Module:
        torch.manual_seed(self._settings.seed)
        return self._task.model()

    def _shared(self, model: nn.Module) -> State:
        try:
            return shared_state(model, self._settings.shared_patterns)
        except ValueError as error:
            raise SettingsError(f"--shared: {error}") from error

    def _checked_encoding(self) -> Encoding:
        encoding = Encoding(delta_specs(self._specs), self._settings.update_compression)
        if len(encoding.encoded) > MAX_TENSORS:
            raise SettingsError(
                f"--compression {self._settings.compression} makes {len(encoding.encoded)} tensors of the model's"
                f" {len(self._specs)}; at most {MAX_TENSORS} can travel"
            )
        return encoding

    def _affordable_prefetch(self) -> int:
        """Updates in memory are at most 64 MiB or four of them; those in blobs are only descriptors."""
        sizes = [num_bytes_of(self._encoding.encoded)]
        if self._settings.shards:
            sizes.append(limb_bytes_of(self._encoding.folded))
        return affordable_prefetch(sizes, self._settings.inline_cap)

    def _go_on_after(self, last: int) -> None:
        if last > self._ledger.base_round():  # it may have been closed a moment before a kill
            self._delete_abandoned_partials(self._partials_of(last, int(self._ledger.round(last)["num_folded"])))
        reason = self._reason_to_end(last)
        if reason is not None:
            self._broadcaster.ensure(last + 1, is_finished=True)
            if last > self._ledger.base_round():
                self._prune(last)  # it may have been killed before it came to that
            self._end(reason)
            return
        number = last + 1
        self._attendance.expect(self._ledger.num_present(), now=self._clock())
        self._ledger.open_round(number, now=time.time())
        try:
            self._open(number)
        except DamagedFile as error:
            log.error("%s; doing round %d again", error, number)
            self._ledger.undo_from(number)
            self._open(number)
        if self._open_round.num_folded:
            log.info("round %d goes on with %d updates folded", number, self._open_round.num_folded)
        if self._asks_again:
            self._ledger.ask_again()
        self._broadcaster.ensure(number)
        self._start_clock(number)
        self._report_at = self._clock()
        self._tell_round_opened()

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Steps until the run is finished, or ``stop`` is called; then what is folded is committed."""
        while self.is_running:
            self.step(self.time_left())
        self.finish()

    @property
    def is_running(self) -> bool:
        return not (self.is_finished or self._is_stopping)

    def stop(self) -> None:
        """Ends ``run`` after the event it is at. May be called from a signal handler."""
        self._is_stopping = True
        self._transport.give_up_waiting()
        self._transport.wake()

    def finish(self) -> None:
        """Commits what is folded, so that the same command goes on from there."""
        if not self.is_finished:
            self._commit()
            log.info(
                "stopped in round %d; run the same command again to go on", self._round.number, extra={IS_SHOWN: True}
            )
            self._tell(RunStopped(round=self._round.number))

    def close(self) -> None:
        """Leaves the queue and the ledger; what was not committed is delivered again."""
        self._transport.close()
        self._ledger.close()

    def step(self, timeout_s: float | None = 0.0) -> bool:
        """Handles the next event if one comes within ``timeout_s``; then does what is due. True if one came."""
        delivery = self._transport.receive(timeout_s)
        if delivery is not None and delivery.source is Source.PRESENCE:
            self._note_presence(delivery)
        elif delivery is not None:
            self._take(delivery)
        self._do_what_is_due()
        return delivery is not None

    def time_left(self) -> float:
        """Seconds until something is due, if nothing comes before."""
        now = self._clock()
        times = [self._report_at, self._wake_at, self._attendance.next_change()]
        if self._open_round.oldest_at is not None:
            times.append(self._open_round.oldest_at + self._settings.commit_every_s)
        return max(0.0, min(at for at in times if at is not None) - now) + 0.001

    def _do_what_is_due(self) -> None:
        now = self._clock()
        num_folded, num_present = self._open_round.num_folded, self._attendance.num_present(now=now)
        self._round, decision = decide(
            self._policy, self._round, now=now, num_folded=num_folded, num_present=num_present
        )
        self._tell_move(num_folded, num_present)
        if isinstance(decision, Close):
            self._close_round(decision.by)
            return
        self._wake_at = decision.until
        if isinstance(decision, Extended):
            log.warning("round %d: deadline passed; %s", self._round.number, self._waits_for())
        elif now >= self._report_at:
            log.info("round %d: %s", self._round.number, self._waits_for(), extra={IS_SHOWN: True})
            self._report_at = now + _REPORT_EVERY_S
        oldest_at = self._open_round.oldest_at
        is_due = oldest_at is not None and now >= oldest_at + self._settings.commit_every_s
        if is_due or self._open_round.num_pending > self._prefetch // 2:
            self._commit()

    def _tell_round_opened(self) -> None:
        num_folded = self._open_round.num_folded
        answered = self._ledger.answered(self._round.number) if num_folded else []
        self._tell(RoundOpened(round=self._round.number, num_folded=num_folded, answered=answered))
        self._tell_move(num_folded, self._attendance.num_present(now=self._clock()))

    def _tell_move(self, num_folded: int, num_present: int) -> None:
        move = RoundMoved(
            round=self._round.number,
            num_folded=num_folded,
            target=self._policy.target(num_present),
            num_present=num_present,
            deadline_at=self._round.deadline_at,
            is_extended=self._round.is_extended,
        )
        if move != self._last_move:
            self._last_move = move
            self._tell(move)

    def _commit(self) -> None:
        self._open_round.commit(num_present=self._attendance.num_present(now=self._clock()))

    def _waits_for(self) -> str:
        num_present = self._attendance.num_present(now=self._clock())
        names = ", ".join(self._attendance.names()[:8]) or "none"
        return (
            f"waits for {self._policy.target(num_present)} updates (quorum {self._policy.quorum.in_words}, at least"
            f" {self._policy.min_updates}); {self._open_round.num_folded} folded; workers present: {names}"
        )

    # -- what comes in --------------------------------------------------------------------------------------

    def _note_presence(self, delivery: Delivery) -> None:
        try:
            presence, _ = decode(delivery.body, Presence)
        except MalformedMessage as error:
            log.warning("sign of life from '%s' dropped: %s", delivery.sender, error)
            return
        if presence.worker != delivery.sender:
            return
        self._uploads.note(presence)
        self._tell(WorkerSeen(presence=presence))
        if self._attendance.note(presence, now=self._clock()) and self._broadcaster.tell_conflict(presence.worker):
            log.warning(
                "two workers go by the name '%s'; each round counts only one of them; start one with another --name",
                presence.worker,
            )

    def _take(self, delivery: Delivery) -> None:
        """Folds an update, or says why not."""
        message = self._suspected(delivery)
        try:
            if message is not None and self._ledger.attempt(message) > _MAX_ATTEMPTS:
                raise UnfitMessage(f"the aggregator died {_MAX_ATTEMPTS} times while it took this message")
            if delivery.shard is None:
                update = read_update(delivery, self._expected, round_number=self._round.number)
                self._uploads.arrived(update.head.worker)
                self._decide_on(update, delivery)
            else:
                partial = read_partial(delivery, self._expected, round_number=self._round.number)
                try:
                    self._decide_on_partial(partial, delivery)
                except (MessageError, BlobLost):
                    self._transport.delete_blobs([partial.blob_name] if partial.blob_name else [])  # never replayed
                    raise
        except (MessageError, BlobLost) as error:
            self._refuse(delivery, str(error))
        if message is not None:
            self._ledger.survived(message)

    def _suspected(self, delivery: Delivery) -> str | None:
        """The digest of a message that came back so often that it may be what kills us; None of any other."""
        if delivery.num_returns < _SUSPECT_AFTER:
            return None
        return hashlib.sha256(delivery.body).hexdigest()

    def _decide_on(self, update: Update, delivery: Delivery) -> None:
        head = update.head
        staleness = self._round.number - head.round
        known_instance = self._open_round.instance_of(head.round, head.worker)
        if known_instance is not None:
            self._note_duplicate(update, delivery, known_instance)
        elif staleness > self._policy.max_staleness:
            reason = f"round {head.round} is closed; the open one is {self._round.number}"
            row = update.row(Verdict.LATE, round_number=self._round.number, reason=reason)
            self._open_round.note(row, delivery, blob=update.blob_name)
            self._log_update(update, "late")
        else:
            base_weight = base_weight_of(head, self._settings.weighting)
            weight = base_weight * discount(staleness)
            row = update.row(Verdict.FOLDED, round_number=self._round.number, weight=weight)
            self._open_round.fold(update, delivery, row, weight=weight, base_weight=base_weight)
            self._log_update(update, "folded" if not staleness else f"folded, {staleness} late")

    def _note_duplicate(self, update: Update, delivery: Delivery, known_instance: str) -> None:
        """The broker may deliver one message twice, and a restarted worker repeats itself; neither counts again."""
        row = None
        if update.head.instance != known_instance:
            reason = f"an update of {update.head.worker} for round {update.head.round} is in already"
            row = update.row(Verdict.DUPLICATE, round_number=self._round.number, reason=reason)
            self._log_update(update, "duplicate")
        self._open_round.note(row, delivery, blob=update.blob_name)

    def _decide_on_partial(self, partial: PartialSum, delivery: Delivery) -> None:
        """Folds all updates of a partial sum or none: one that has some that are in already is refused."""
        head, number = partial.head, self._round.number
        known = {update.worker: self._open_round.instance_of(head.round, update.worker) for update in head.updates}
        new = [update for update in head.updates if known[update.worker] is None]
        self._partial_uploads.arrived(head.shard, head.round, head.sequence)
        for update in head.updates:
            self._uploads.arrived(update.worker)
        if not new:
            self._open_round.note(None, delivery, blob=partial.blob_name)
        elif head.round < number:
            reason = f"round {head.round} is closed; the open one is {number}"
            for update in new:
                self._open_round.note(partial.row(update, Verdict.LATE, round_number=number, reason=reason), None)
            self._open_round.note(None, delivery, blob=partial.blob_name)
            self._log_partial(partial, "late")
        elif len(new) < len(head.updates):
            names = ", ".join(update.worker for update in head.updates if known[update.worker] is not None)
            raise UnfitMessage(f"of its {len(head.updates)} updates those of {names} are in already")
        else:
            weights = [base_weight_of(update, self._settings.weighting) for update in head.updates]
            rows = [
                partial.row(update, Verdict.FOLDED, round_number=number, weight=float(weight))
                for update, weight in zip(head.updates, weights, strict=True)
            ]
            self._open_round.fold_partial(partial, delivery, rows, base_weight=sum(weights))
            self._log_partial(partial, "folded")

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        log.warning(
            "update from '%s' set aside in %s: %s",
            delivery.sender,
            self._topology.dead,
            reason,
            extra={
                "round": self._round.number,
                "worker": delivery.sender,
                "verdict": Verdict.REFUSED,
                "reason": reason,
            },
        )
        self._transport.set_aside(delivery, reason)
        row = UpdateRow(
            received_at=time.time(),
            round=self._round.number,
            verdict=Verdict.REFUSED,
            reason=reason,
            worker=delivery.sender,
            num_bytes=len(delivery.body),
        )
        self._open_round.note(row, None)
        self._open_round.mend()

    def _log_update(self, update: Update, verdict: str) -> None:
        head = update.head
        log.info(
            "round %3d ← %-16s %6d samples %8.2f s training  %s",
            head.round,
            head.worker,
            head.num_samples,
            head.train_s,
            verdict,
            extra={
                "round": head.round,
                "worker": head.worker,
                "num_samples": head.num_samples,
                "train_s": head.train_s,
                "verdict": verdict,
                IS_SHOWN: True,
            },
        )

    def _log_partial(self, partial: PartialSum, verdict: str) -> None:
        head = partial.head
        num_samples = sum(update.num_samples for update in head.updates)
        log.info(
            "round %3d ⇐ shard %-10d %6d samples of %d updates  %s",
            head.round,
            head.shard,
            num_samples,
            len(head.updates),
            verdict,
            extra={
                "round": head.round,
                "shard": head.shard,
                "num_samples": num_samples,
                "num_updates": len(head.updates),
                "verdict": verdict,
                IS_SHOWN: True,
            },
        )

    # -- closing --------------------------------------------------------------------------------------------

    def _open(self, number: int) -> None:
        self._open_round = OpenRound(
            number,
            epoch=self._epoch,
            directory=self._directory,
            ledger=self._ledger,
            transport=self._transport,
            specs=self._encoding.folded,
            kernel=self._kernel,
            clock=self._clock,
            tell=self._tell,
        )
        self._partial_uploads = self._partials_of(number, self._open_round.num_folded)
        self._start_clock(number)

    def _partials_of(self, number: int, num_before: int) -> PartialUploads:
        return PartialUploads(number, num_shards=self._settings.shards, num_before=num_before)

    def _start_clock(self, number: int) -> None:
        """The round's time runs from when its model is out."""
        self._round = Round.open(number, self._policy, now=self._clock())
        self._report_at = self._clock() + _REPORT_EVERY_S
        self._wake_at = self._round.deadline_at

    def _close_round(self, by: ClosedBy) -> None:
        number = self._round.number
        total = 0 if by is ClosedBy.ABANDONED else self._open_round.total
        self._give_back_memory()  # the parts of updates, before there are those of a model
        new = self._directory.new_model(number, self._specs)
        body = self._broadcaster.stage(number + 1, self._next_pieces(new, total))
        written = new.finish()
        result = RoundResult(
            closed_by=by,
            closed_at=time.time(),
            seconds=self._clock() - self._round.opened_at,
            num_samples=total,
            model_sha256=written.sha256,
            measured=self._evaluate(written.model),
        )
        self._delete_abandoned_uploads()
        is_surely_next = number < self._settings.rounds and self._settings.stop_metric is None
        closed, partial_uploads = self._open_round, self._partial_uploads
        closed.close(
            result,
            next_round=number + 1 if is_surely_next else None,
            install=written.install,
            num_present=self._attendance.num_present(now=self._clock()),
        )
        self._log_round(number)
        reason = self._reason_to_end(number)
        if reason is not None:
            closed.settle()  # while there is still a reason to start again after a kill
            self._broadcaster.publish(number + 1, body, is_finished=True)
            self._end(reason)
        else:
            if not is_surely_next:
                self._ledger.open_round(number + 1, now=time.time())
            self._broadcaster.publish(number + 1, body)
            self._give_back_memory()
            self._open(number + 1)
            self._tell_round_opened()
            closed.settle()
        self._delete_abandoned_partials(partial_uploads)
        self._prune(number)

    def _next_pieces(self, new: NewModel, total: int) -> Iterator[Buffer]:
        """The payload of the next model, piece by piece as it is made; it has gone into its file by then."""
        number = self._round.number
        old, server_lr = self._directory.model(number - 1), self._settings.server_lr
        exact_sum = self._open_round.sum
        for span, values in next_values(old, self._specs, exact_sum, total=total, server_lr=server_lr):
            if not is_finite(values):
                new.discard()
                parts = torch.split(values, [spec.num_elements for spec in span]) if len(span) > 1 else [values]
                broken = next(spec.name for spec, part in zip(span, parts, strict=True) if not is_finite(part))
                raise StateError(
                    f"round {number}: the mean leaves the range of tensor '{broken}'; lower --server-lr or --lr"
                )
            piece = raw(values)
            new.write(piece)
            yield piece

    def _give_back_memory(self) -> None:
        if num_bytes_of(self._specs) > self._settings.inline_cap:
            malloc.give_back()

    def _reason_to_end(self, last: int) -> str | None:
        if last >= self._settings.rounds:
            return f"all {self._settings.rounds} rounds are done"
        if self._settings.stop_metric is None or last == 0:
            return None
        return reason_to_stop(
            self._ledger.rounds(),
            self._settings.aim,
            stop_at=self._settings.stop_at,
            patience=self._settings.patience,
            last_round=last,
        )

    def _delete_abandoned_uploads(self) -> None:
        """Of workers that died while they sent, once nobody can send for that round in earnest any more."""
        before = self._round.number - self._policy.max_staleness
        names = [
            self._topology.update_blob(worker, self._expected.run_id, number)
            for worker, number in self._uploads.abandoned(before=before)
        ]
        if num_bytes_of(self._encoding.encoded) > self._settings.inline_cap:
            self._transport.delete_blobs(names)

    def _delete_abandoned_partials(self, uploads: PartialUploads) -> None:
        """The same of partial sums, once their round is closed and each that still comes is late."""
        names = [
            self._topology.partial_blob(shard, self._expected.run_id, uploads.round, sequence)
            for shard, sequence in uploads.unknown()
        ]
        if limb_bytes_of(self._encoding.folded) > self._settings.inline_cap:
            self._transport.delete_blobs(names)

    def _end(self, reason: str) -> None:
        """The final model is out: what remains is to say so."""
        aim = self._settings.aim
        with self._ledger.transaction():
            summary = summarize(self._ledger, self._plain_settings(), aim=aim, stopped=reason)
            self._directory.write_summary(summary)
        self.is_finished = True
        fields = {"run_id": self._expected.run_id, "reason": reason}
        log.info("run %s is finished: %s; %s", self._expected.run_id, reason, self._directory.summary, extra=fields)
        self._tell(RunEnded(reason=reason))

    def _plain_settings(self) -> dict[str, Any]:
        """All but what nobody is to read."""
        return self._settings.model_dump(mode="json", exclude={"broker"})

    def _prune(self, last: int) -> None:
        best = best_of([*self._best_so_far, self._ledger.round(last)], self._settings.aim)
        self._best_so_far = [] if best is None else [self._ledger.round(best[1])]
        keep = rounds_to_keep(last, best[1] if best else None, keep_every=self._settings.keep_every)
        with self._ledger.transaction():  # only while no other aggregator has taken over
            self._directory.link("last", last)
            if best is not None and self._directory.model_path(best[1]).exists():
                self._directory.link("best", best[1])  # by another --stop-metric it may be one that was not kept
            self._directory.keep_only(keep)

    def _log_round(self, number: int) -> None:
        row = self._ledger.round(number)
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in row["metrics"].items())
        log.info(
            "round %3d ↻ closed by %s: %d folded, %d late, %d refused, %.2f s  %s",
            number,
            row["closed_by"],
            row["num_folded"],
            row["num_late"],
            row["num_refused"],
            row["seconds"],
            metrics,
            extra={name: row[name] for name in _TOLD_OF_ROUNDS},
        )
        self._tell(RoundClosed(row=row))
