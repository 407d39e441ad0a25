"""The aggregator: takes updates as they arrive, closes rounds, and broadcasts the resulting models.

Here the pure parts meet the wire. ``step()`` handles one event: an update, a part of a body, a sign of life or the
clock. An update is read (``read_update``) and decided on (``decide_on``), and the open round carries the decision out;
one that is to be folded but whose body is in a blob waits until all of that is there, and is then decided on again.
Then ``step()`` does whatever is due.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from aggregator.bodies import Body, Settled
from aggregator.closing import Closed, close_round, end_run, evaluated, reason_to_end
from aggregator.config import AggregatorConfig
from aggregator.current_round import CurrentRound, drawn_now
from aggregator.events import (
    CommandTaken,
    Event,
    LastEvaluationOpened,
    RunStopped,
    SitesMeasured,
    Watcher,
    unwatched,
)
from aggregator.masking import Released, read_answer_of_keeper
from aggregator.opening import OpenedRun, opened
from aggregator.presence import Attendance, NameConflicts, PartialUploads, SignsOfLife, Uploads, is_chosen
from aggregator.rounds import (
    Contribution,
    Decision,
    Duplicate,
    Fold,
    Late,
    PassOver,
    Refuse,
    Unselected,
    decide_on,
    decide_on_answer,
    is_answer,
    read_answer,
    read_partial,
    read_update,
)
from aggregator.senders import Bases, BothWays, Excluding, admission_by, is_by_its_sender, suspected
from aggregator.state import ClosedBy, Ledger
from aggregator.sums import for_summing, summing_of
from aggregator.watchers import Runaway, log_event
from broker import Delivery, Source, Transport
from broker.wire import Command, Withheld, decode_from, names_of, num_bytes_of
from console import (
    IS_SHOWN,
    DamagedBody,
    DamagedFile,
    MalformedMessage,
    MessageError,
    ReplayedMessage,
    SettingsError,
    StateError,
    UnfitMessage,
    malloc,
)
from learning import Task

log = logging.getLogger(__name__)


class Aggregator:
    """One run, from its first round, or from where its state directory left off, to its last.

    With ``asks_again``, all workers send their update for the open round once more: those on the queue are lost.
    ``beat`` is called with every turn of the loop.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        task: Task,
        transport: Transport,
        *,
        asks_again: bool = False,
        clock: Callable[[], float] = time.monotonic,
        on_event: Watcher = unwatched,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_finished = False
        self._beat = beat
        self._summing = summing_of(task)
        config = config if self._summing is None else for_summing(config, self._summing)
        self._config, self._task, self._transport, self._clock = config, task, transport, clock
        self._asks_again = asks_again
        self._on_event = _logged(on_event)
        self._sent_both_ways, self._bases = BothWays(), Bases()
        self._admission = Excluding(admission_by(config.membership.rosters, config.admission))
        self._attendance = Attendance(deadline_s=config.policy.deadline_s)
        self._uploads, self._conflicts = Uploads(), NameConflicts()
        self._signs_of_life = SignsOfLife(
            attendance=self._attendance,
            uploads=self._uploads,
            conflicts=self._conflicts,
            admission=self._admission,
            trust=config.membership.trust,
            clock=clock,
            on_event=self._on_event,
            on_patience=lambda seconds: self._ledger.record({"patience_s": seconds}),
        )
        self._draws_of = functools.lru_cache(maxsize=8)(lambda number: self._ledger.draws(number))
        """Of a closed round, whose draws stay as they are; asked for each update that is late."""
        self._has_checked_metric = False
        self._is_stopping = False
        self._opened: OpenedRun | None = None
        """None before ``start``."""
        self._round: CurrentRound | None = None
        """None before ``start``, and after the end."""

    # -- starting -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens or resumes the run, and makes sure that its newest model is on the stream."""
        try:
            self._start()
        except (StateError, OSError):
            self._check_leads()
            raise

    def _start(self) -> None:
        self._opened = opened(
            self._config,
            self._task,
            self._transport,
            summing=self._summing,
            admission=self._admission,
            conflicts=self._conflicts,
            clock=self._clock,
            on_event=self._on_event,
        )
        last = self._ledger.last_closed_round()
        self._follow(last + 1)
        if not self._config.ending.only_evaluates:
            _check_rounds(last, self._config)
        has_closed = last > self._ledger.base_round()
        if has_closed:  # perhaps just before a kill
            num_folded = int(self._ledger.round(last)["num_folded"])
            self._delete_abandoned_sums(
                PartialUploads(last, num_shards=self._config.topology.num_shards, num_before=num_folded)
            )
            self._check_metric(last)
        reason = reason_to_end(last, config=self._config, opened=self._run)
        if reason is None or self._ledger.frozen(last + 1) is not None:
            self._go_on(last + 1)
            return
        if self._asks_sites(last):
            self._run.broadcaster.ensure(last + 1, only_evaluate=True)
            self._open_last_evaluation(last)
            return
        self._run.broadcaster.ensure(last + 1, is_finished=True)
        if has_closed:
            self._run.retention.keep(last)
        self._end(reason)

    def _go_on(self, number: int) -> None:
        """Opens a round in which updates may already have been folded."""
        self._attendance.recall(self._ledger.workers())
        self._attendance.expect(
            self._ledger.num_present(),
            now=self._clock(),
            patience_s=self._ledger.patience_s(),
            num_chosen=self._ledger.num_chosen(),
        )
        self._open_in_ledger(number)
        try:
            current = self._open(number)
            current.withdraw(self._admission)  # the list may have changed meanwhile
        except DamagedFile as error:
            log.error("%s; doing round %d again", error, number)
            self._ledger.undo_from(number)
            current = self._open(number)
        if current.updates.num_folded:
            log.info("round %d goes on with %d updates folded", number, current.updates.num_folded)
        if self._asks_again:
            self._ledger.ask_again()
        self._run.broadcaster.ensure(number)
        current.restart_clock()
        current.emit_opened()
        current.ask_keepers()

    def _open_in_ledger(self, number: int) -> None:
        """Opens a round and draws who takes part in it, unless that is done."""
        config = self._run.steering.config_of(number)
        draws, num_chosen = drawn_now(config, self._attendance, number=number, now=self._clock())
        self._ledger.open_round(number, now=time.time(), draws=draws, num_chosen=num_chosen)

    def _follow(self, number: int) -> None:
        """Has everything go by what people have asked for, as it is in this round."""
        steering = self._run.steering
        self._config = steering.config_of(number)
        self._admission.exclude(steering.standing.excluded)

    def _open(self, number: int) -> CurrentRound:
        self._follow(number)
        self._round = CurrentRound(number, self._config, self._run, self._attendance)
        return self._round

    @property
    def _run(self) -> OpenedRun:
        if self._opened is None:
            raise RuntimeError("call start() first")
        return self._opened

    @property
    def _ledger(self) -> Ledger:
        return self._run.stores.ledger

    @property
    def _current(self) -> CurrentRound:
        if self._round is None:
            raise RuntimeError("no round is open")
        return self._round

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Steps until the run is finished or ``stop`` is called; then commits what is folded."""
        while self.is_running:
            self._beat()
            self.step(self.time_left())
        self.finish()

    @property
    def is_running(self) -> bool:
        return not (self.is_finished or self._is_stopping)

    def stop(self) -> None:
        """Ends ``run`` after the current event. May be called from a signal handler."""
        self._is_stopping = True
        self._transport.give_up_waiting()
        self._transport.wake()

    def finish(self) -> None:
        """Commits what is folded, so that the same command resumes from there."""
        if self.is_finished:
            return
        self._current.refusals.record_dropped()
        self._current.commit()
        number = self._current.number - self._current.is_last
        log.info("stopped in round %d; run the same command again to go on", number, extra={IS_SHOWN: True})
        self._on_event(RunStopped(round=number))

    def close(self) -> None:
        """Leaves the queue and the ledger; uncommitted updates are delivered again."""
        if self._opened is not None:
            self._opened.bodies.clear()
        try:
            self._transport.close()
        finally:
            if self._opened is not None:
                self._opened.stores.ledger.close()

    def step(self, timeout_s: float | None = 0.0) -> bool:
        """Handles the next event if one arrives within ``timeout_s``, then does what is due. True if one arrived.

        A message that is dropped, or says only that a worker is still there, makes nothing due: only after
        ``timeout_s`` is it looked what is, so that thousands of them cost little.
        """
        try:
            return self._step(timeout_s)
        except (StateError, OSError):
            self._check_leads()
            raise

    def _check_leads(self) -> None:
        """LeadershipLost if another aggregator has taken over.

        It removes the files of what this one had not committed, perhaps while this one was frozen in mid-write.
        """
        if self._opened is not None:
            self._ledger.check_leads()

    def _step(self, timeout_s: float | None) -> bool:
        due_at = self._clock() + (timeout_s or 0.0)
        delivery, counts = self._transport.receive(timeout_s), True
        if delivery is not None and delivery.source is Source.PRESENCE:
            counts = self._signs_of_life.take(delivery, refusals=self._current.refusals)
        elif delivery is not None and delivery.source is Source.PARTS:
            self._run.bodies.take(delivery)
        elif delivery is not None and delivery.source is Source.COMMANDS:
            self._take_command(delivery)
        elif delivery is not None:
            counts = self._take(delivery)
        if not self.is_finished and (counts or self._clock() >= due_at):
            self._do_what_is_due()
        return delivery is not None

    def _do_what_is_due(self) -> None:
        if self._admission.look():
            self._attendance.keep_only(self._admission.admits)
            self._current.withdraw(self._admission)
        if self._conflicts.is_due(now=self._clock()):
            self._conflicts.announce(now=self._clock())
            self._run.broadcaster.announce_conflicts()
        for settled in self._run.bodies.settle():
            self._take_up(settled)
        self._draw_again_if_due()
        by = self._current.do_what_is_due(num_held_up=self._run.bodies.num_held_up)
        if by is not None and self._current.is_last:
            self._close_last_evaluation()
        elif by is not None and not self._current.freezes(by):
            self._close_round(by)

    def _draw_again_if_due(self) -> None:
        """Chooses others for the open round if nobody who is there takes part in it; its time begins anew."""
        current = self._current
        draws = current.next_draws()
        if draws is None:
            return
        current.turnout.follow(draws)
        num_chosen = current.num_chosen or 0
        self._ledger.draw_again(current.number, draws, num_chosen=num_chosen)
        self._run.broadcaster.draw_again(draws[-1])
        current.restart_clock()
        log.info(
            "round %d: %d of the workers present take part, by draw %d", current.number, num_chosen, draws[-1].number
        )

    def time_left(self) -> float:
        """Seconds until something is due, if no event arrives before."""
        times = [self._current.time_left(), self._conflicts.time_left(now=self._clock())]
        if self._admission.looks_every_s is not None:
            times.append(self._admission.looks_every_s)
        of_bodies_s = self._run.bodies.time_left()
        if of_bodies_s is not None:
            times.append(of_bodies_s + 0.001)
        return min(times)

    # -- commands -------------------------------------------------------------------------------------------

    def _take_command(self, delivery: Delivery) -> None:
        """Does what a command asks for, unless it is done: recorded with its effect in one transaction, then acked."""
        try:
            message = decode_from(delivery.body, Command, trust=self._config.membership.trust)
        except MessageError as error:
            log.warning("a command is set aside in %s: %s", self._config.topology.dead, error)
            self._transport.set_aside(delivery, str(error))
            return
        if self._run.steering.is_known(message.header):
            self._transport.ack([delivery])
            return
        self._current.commit()
        row = self._run.steering.take(
            message.header,
            message.signer,
            run_id=self._run.run.run_id,
            number=self._current.number,
            num_folded=self._current.num_in,
            stays=self._current.holds,
        )
        self._transport.ack([delivery])
        later = self._run.steering.config_of(self._current.number + 1)
        self._on_event(CommandTaken(row=row, num_rounds=later.ending.rounds))
        if row.is_accepted:
            self._carry_out(message.header)

    def _carry_out(self, command: Command) -> None:
        """What follows from a command at once. A start does the same, as far as it goes by what is recorded."""
        number = self._current.number
        self._follow(number)
        self._current.follow(self._run.steering.standing)
        if command.verb == "stop":
            self.stop()
        if self._current.is_last:  # it ends by itself, and what was measured is its result
            if (command.verb, *command.words) == ("finish", "now"):
                self._close_last_evaluation()
            return
        reason = reason_to_end(number - 1, config=self._config, opened=self._run)
        if reason is not None:
            self._current.refusals.record_dropped()
            self._current.commit()
            self._run.broadcaster.ensure(number, is_finished=True)
            self._end(reason)

    # -- incoming messages ----------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> bool:
        """Reads a message from the results queue and decides on it, or sets it aside. False if it was dropped."""
        is_sum = delivery.shard is not None and self._config.topology.num_shards > 0
        if not is_sum and self._current.refusals.ignores(delivery):
            return False
        contribution: Contribution | None = None
        with self._suspected(delivery) as refuse_as:
            try:
                if refuse_as is not None:
                    raise UnfitMessage(refuse_as)
                if delivery.keeper is not None and self._run.keepers is not None:
                    self._take_keepers_answer(delivery)
                elif delivery.shard is None and is_answer(delivery):
                    self._take_answer(delivery)
                else:
                    contribution = self._read(delivery)
                    self._decide_on(contribution, delivery)
            except MessageError as error:
                return self._refuse(delivery, contribution, error)
        return True

    def _take_answer(self, delivery: Delivery) -> None:
        """Notes that a worker has no update, or that it measured the model; a MessageError if it is not ours."""
        answer = read_answer(delivery, self._run.expected, round_number=self._current.number)
        worker, keys = answer.head.worker, answer.signer.keys if answer.signer else ()
        if not self._admission.admits(worker, keys):
            raise UnfitMessage(f"worker '{worker}' {self._admission.reason(worker, keys)}")
        updates = self._current.updates
        decision = decide_on_answer(
            answer.head,
            open_round=self._current.number,
            max_staleness=self._config.policy.max_staleness,
            known=updates.known_answer(answer),
            is_last=self._current.is_last,
            is_chosen=self._is_chosen(worker, answer.head.round),
        )
        if isinstance(decision, PassOver) and decision.has_row:
            decision = replace(decision, has_row=self._current.refusals.passes_over(delivery))
        updates.take_answer(answer, decision, delivery)
        self._attendance.answered(worker, is_folded=False)

    def _take_keepers_answer(self, delivery: Delivery) -> None:
        """Takes masks off the open round's sum, or what a keeper says instead; a MessageError if it is not ours."""
        answer = read_answer_of_keeper(delivery, self._run.expected)
        if isinstance(answer, Withheld):
            self._take_refusal(answer)
            self._transport.ack([delivery])
        elif self._wants(answer) and answer.head.blob is not None:
            self._run.bodies.expect(answer, delivery)
        else:
            self._unmask(answer, delivery, answer.in_message)

    def _wants(self, answer: Released | Withheld) -> bool:
        unmasking = self._current.unmasking
        return unmasking is not None and unmasking.wants(answer)

    def _unmask(self, answer: Released, delivery: Delivery, body: Body) -> None:
        """If these masks are still wanted. A kill before the round's commit is followed by the same request again."""
        if self._current.unmasking is not None and self._wants(answer):
            self._current.unmasking.take(answer, body)
        if answer.blob_name is not None:
            self._transport.delete_blobs([answer.blob_name])
        self._transport.ack([delivery])

    def _take_refusal(self, answer: Withheld) -> None:
        """Goes on without the workers whose seeds are of no use, if they can be left out; else without the round."""
        current = self._current
        if answer.round != current.number:
            return
        log.error(
            "round %d: keeper %s: %s%s",
            answer.round,
            answer.keeper,
            answer.reason,
            "".join(f"; {worker}: {reason}" for worker, reason in answer.unfit.items()),
        )
        unfit = {worker: f"has a seed of no use: {reason}" for worker, reason in answer.unfit.items()}
        if current.unmasking is None:
            current.leave_out(unfit)
        elif current.unmasking.wants(answer):
            if unfit and not answer.is_final and current.can_leave_out(unfit):
                self._ledger.freeze(None)  # this keeper has given nothing yet
                self._open(current.number).leave_out(unfit)
                self._current.emit_opened()
            else:
                if unfit and not answer.is_final:
                    log.error(
                        "round %d: %s cannot be taken out of it, since they came in sums of several; fl-run exclude"
                        " leaves them out of the next",
                        answer.round,
                        ", ".join(sorted(unfit)),
                    )
                if answer.ends_run:
                    ended = {"round": answer.round, "reason": f"keeper {answer.keeper}: {answer.reason}"}
                    self._ledger.record({"keepers_end": ended})
                current.unmasking.refused(answer)

    def _take_up(self, settled: Settled[Contribution | Released]) -> None:
        """Decides again on a message whose body is there by now; or sets it aside, if that will not come.

        One that would not be folded needs no body: perhaps it is gone because another message had the same update.
        """
        delivery, body = settled.delivery, settled.body
        if isinstance(settled.message, Released):
            self._take_up_masks(settled.message, delivery, body, settled.reason)
            return
        contribution = settled.message
        if body is None and isinstance(self._decision_on(contribution), Fold):
            self._refuse(delivery, contribution, DamagedBody(settled.reason))
            return
        contribution.received(body.num_blob_bytes if body else 0)
        with contextlib.closing(body or contribution.in_message), self._suspected(delivery) as refuse_as:
            try:
                if refuse_as is not None:
                    raise UnfitMessage(refuse_as)
                self._decide_on(contribution, delivery, body)
            except MessageError as error:
                self._refuse(delivery, contribution, error)

    def _take_up_masks(self, answer: Released, delivery: Delivery, body: Body | None, reason: str) -> None:
        if body is None and self._wants(answer):
            log.warning(
                "round %d: the masks of keeper %s: %s; asking again", answer.head.round, answer.head.keeper, reason
            )
            self._current.ask_keepers()
        with contextlib.closing(body or answer.in_message):
            if body is None:
                self._transport.ack([delivery])
            else:
                self._unmask(answer, delivery, body)

    def _decide_on(self, contribution: Contribution, delivery: Delivery, body: Body | None = None) -> None:
        """Decides, and carries the decision out; what is to be folded may have to wait, and then comes with a body."""
        self._check_admitted(contribution)
        expected = self._run.expected
        for claim in contribution.claims:
            self._bases.check(
                claim.worker,
                claim.base_sha256,
                expected=expected.base_sha256,
                is_required=expected.requires_same_base,
            )
        decision = self._decision_on(contribution)
        if contribution.shard is None and isinstance(decision, Fold):
            self._sent_both_ways.check_alone(contribution.claims[0].worker)
        elif contribution.shard is not None and isinstance(decision, Refuse):
            self._sent_both_ways.note(self._current.updates.known(contribution))
        if body is None and isinstance(decision, Fold) and self._run.bodies.has_to_wait(contribution):
            if self._config.membership.has_roster and self._run.bodies.has_same(contribution, delivery):
                raise ReplayedMessage("it was sent twice, and its body is on its way already")
            self._run.bodies.expect(contribution, delivery)
            return
        updates = self._current.updates
        if isinstance(decision, Fold):
            workers = [claim.worker for claim in contribution.claims]
            self._run.counting.check_room(
                self._current.number, workers, num_folded=updates.num_folded, folded=lambda: updates.counting
            )
        bound_before = updates.accumulator.bound
        updates.take(contribution, self._with_rows(decision, delivery), delivery, body or contribution.in_message)
        self._current.note_bound(delivery.sender, updates.accumulator.bound - bound_before)
        for claim in contribution.claims:
            self._attendance.answered(claim.worker, is_folded=isinstance(decision, Fold))

    def _decision_on(self, contribution: Contribution) -> Decision:
        decision = decide_on(
            contribution.claims,
            base_round=contribution.base_round,
            open_round=self._current.number,
            known=self._current.updates.known(contribution),
            max_staleness=self._config.policy.max_staleness,
            weigher=self._current.updates.weigher,
            is_chosen=lambda worker: self._is_chosen(worker, contribution.base_round),
        )
        if self._current.frozen is not None and isinstance(decision, Fold):
            return Late(tuple(contribution.claims), "it came after the round's set of updates was decided")
        if self._current.is_last and isinstance(decision, Fold):
            return Late(tuple(contribution.claims), "the model is only measured, not trained any more")
        return decision

    def _is_chosen(self, worker: str, base_round: int) -> bool:
        """Whether a worker takes part in this round, which is or was open."""
        if base_round == self._current.number:
            return self._current.turnout.chooses(worker)
        return is_chosen(worker, self._draws_of(base_round), seed=self._config.seed, round_number=base_round)

    def _with_rows(self, decision: Decision, delivery: Delivery) -> Decision:
        """The decision; without ledger rows if this sender has had enough of them."""
        if not isinstance(decision, Late | Duplicate | Unselected) or not decision.claims:
            return decision
        return decision if self._current.refusals.passes_over(delivery) else replace(decision, claims=())

    def _read(self, delivery: Delivery) -> Contribution:
        """The update or partial sum in a delivery, judged by its header alone; a MessageError if it is not ours."""
        if delivery.cut_from:
            raise MalformedMessage(f"a message of {delivery.num_bytes} bytes; none of this run's updates is that large")
        expected, number = self._run.expected, self._current.number
        contribution: Contribution
        if delivery.shard is None:
            contribution = read_update(delivery, expected, round_number=number, guard=self._current.guard)
        else:
            contribution = partial = read_partial(delivery, expected, round_number=number)
            self._current.partial_uploads.arrived(partial.shard, partial.base_round, partial.head.sequence)
        for claim in contribution.claims:
            self._uploads.arrived(claim.worker)
        return contribution

    def _check_admitted(self, contribution: Contribution) -> None:
        """An UnfitMessage if it has the update of a worker that may not count, perhaps not any more."""
        signer = None if contribution.shard is not None else contribution.signer
        keys = () if signer is None else signer.keys
        for claim in contribution.claims:
            if contribution.shard is not None and self._admission.admits_in_sum(claim.worker, contribution.base_round):
                continue
            if not self._admission.admits(claim.worker, keys):
                raise UnfitMessage(f"worker '{claim.worker}' {self._admission.reason(claim.worker, keys)}")

    def _suspected(self, delivery: Delivery) -> contextlib.AbstractContextManager[str | None]:
        return suspected(delivery, self._ledger, waits=lambda: delivery in self._run.bodies)

    def _refuse(self, delivery: Delivery, contribution: Contribution | None, error: MessageError) -> bool:
        """Sets a message aside with its reason; False if it was dropped."""
        if contribution is not None and contribution.shard is not None and contribution.blob_name is not None:
            self._transport.delete_blobs([contribution.blob_name])  # a partial sum is never replayed
        is_by_sender = is_by_its_sender(error, are_signed=self._config.membership.has_roster)
        return self._current.refusals.refuse(delivery, str(error), is_by_sender=is_by_sender)

    # -- closing --------------------------------------------------------------------------------------------

    def _close_round(self, by: ClosedBy) -> None:
        current, number = self._current, self._current.number
        self._delete_abandoned_uploads(number)
        current.refusals.record_dropped()
        closed = close_round(current, by, config=self._config, opened=self._run)
        self._check_metric(number)
        reason = reason_to_end(number, config=self._config, opened=self._run)
        if reason is None:
            self._open_after(current, closed)
        elif self._asks_sites(number):
            current.updates.settle()
            self._run.broadcaster.publish(number + 1, closed.body, only_evaluate=True)
            self._open_last_evaluation(number)
        else:
            current.updates.settle()  # before the final model is out: then nobody may restart a killed aggregator
            self._run.broadcaster.publish(number + 1, closed.body, is_finished=True)
            self._end(reason)
        self._delete_abandoned_sums(current.partial_uploads)
        self._run.retention.keep(number)

    def _check_metric(self, number: int) -> None:
        """Warns, once in this process, if the run goes by a metric that there is none of after this round."""
        metric, names = self._config.ending.aim.metric, self._ledger.metric_names(number)
        if self._has_checked_metric or metric is None or not names:
            return
        self._has_checked_metric = True
        if metric not in names:
            log.warning(
                "--stop-metric %s: there is no such metric after round %d, and so no best model and no early end;"
                " there are %s",
                metric,
                number,
                ", ".join(names),
            )

    def _open_after(self, last: CurrentRound, closed: Closed) -> None:
        number = last.number + 1
        if closed.plan.next_round is None:
            self._open_in_ledger(number)
        self._run.broadcaster.publish(number, closed.body)
        if self._run.has_large_model:
            malloc.give_back()
        self._open(number).emit_opened()
        last.updates.settle()

    def _asks_sites(self, last: int) -> bool:
        """Whether the sites are still to measure the model after the last round: they can, and nobody else has."""
        ledger = self._ledger
        if self._run.keepers is not None or self._run.spending is not None:
            return False  # an answer without an update says what one site measured
        if self._config.ending.only_evaluates:
            return not ledger.is_measured(last)
        return not self._run.evaluate.has_data and ledger.sites_measure(last) and not ledger.is_measured(last)

    def _open_last_evaluation(self, last: int) -> None:
        """Waits for the sites to measure the model after the last round, by the rules of a round; not without end."""
        longest_s = max((row["seconds"] for row in self._ledger.rounds()), default=0.0)
        policy = self._config.policy
        if not self._config.ending.only_evaluates:
            policy = policy.of_last_evaluation(longest_s=longest_s)
        self._round = CurrentRound(last + 1, self._config, self._run, self._attendance, policy=policy, is_last=True)
        what = "nothing is trained" if self._config.ending.only_evaluates else "all rounds are over"
        log.info("%s; the sites measure the model after round %d", what, last, extra={IS_SHOWN: True})
        self._on_event(LastEvaluationOpened(round=last, num_wanted=self._config.num_wanted))

    def _close_last_evaluation(self) -> None:
        current, last = self._current, self._current.number - 1
        current.refusals.record_dropped()
        current.updates.close_evaluation(evaluated(current, self._run))
        self._on_event(SitesMeasured(row=self._ledger.round(last)))
        self._run.broadcaster.finish()
        self._run.retention.keep(last)
        reason = reason_to_end(last, config=self._config, opened=self._run)
        if reason is None:
            log.warning("the run was extended while its last model was measured: run the same command again to go on")
        self._end(reason or "all rounds are done")

    def _end(self, reason: str) -> None:
        end_run(reason, config=self._config, opened=self._run)
        self._round = None
        self.is_finished = True

    def _delete_abandoned_uploads(self, number: int) -> None:
        """Deletes the blobs of workers that died while sending, once no update for that round can count any more."""
        expected = self._run.expected
        blobs = [
            expected.topology.update_blob(worker, expected.run_id, base_round)
            for worker, base_round in self._uploads.abandoned(before=number - self._config.policy.max_staleness)
        ]
        names = [name for blob in blobs for name in reversed(names_of(blob))]  # the first may fail every time
        if num_bytes_of(expected.encoding.encoded) > self._run.run.inline_cap:
            self._transport.delete_blobs(names)

    def _delete_abandoned_sums(self, uploads: PartialUploads) -> None:
        """The same for partial sums, once their round is closed and any that still arrive are late."""
        expected = self._run.expected
        names = [
            expected.topology.partial_blob(shard, expected.run_id, uploads.round, sequence)
            for shard, sequence in uploads.unknown()
        ]
        if uploads.are_few:
            names = [name for blob in names for name in reversed(names_of(blob))]
        if expected.encoding.sum_bytes > self._run.run.inline_cap:
            self._transport.delete_blobs(names)


def _check_rounds(last: int, config: AggregatorConfig) -> None:
    """A SettingsError if more rounds are done than the run is to have."""
    if last > config.ending.rounds:
        raise SettingsError(
            f"--rounds {config.ending.rounds} is fewer than the {last} rounds that are done: give at least {last};"
            " to end a run before its last round: fl-run finish"
        )


def _logged(on_event: Watcher) -> Watcher:
    """Logs each event before passing it on, and says if the run runs away."""
    runaway = Runaway()

    def emit(event: Event) -> None:
        log_event(event)
        runaway(event)
        on_event(event)

    return emit
