"""The aggregator: takes updates as they arrive, closes rounds, and broadcasts the resulting models.

Here the pure parts meet the wire. ``step()`` handles one event: an update, a part of a body, a sign of life, a command
or the clock; then it does whatever is due. ``Course`` says where the run stands, ``Reception`` takes what comes in.
"""

import logging
import time
from collections.abc import Callable

from aggregator.closing import Closed, close_round, end_run, reason_to_end
from aggregator.config import AggregatorConfig
from aggregator.course import Course, CurrentRound
from aggregator.events import CommandTaken, Event, RunStopped, Watcher, unwatched
from aggregator.incoming import Reception, delete_abandoned_sums, delete_abandoned_uploads
from aggregator.last_evaluation import asks_sites, close_last_evaluation, open_last_evaluation
from aggregator.opening import OpenedRun, opened
from aggregator.presence import NameConflicts, PartialUploads, SignsOfLife, Uploads
from aggregator.state import ClosedBy, Ledger
from aggregator.sums import for_summing, summing_of
from aggregator.watchers import Runaway, log_event
from broker import Delivery, Source, Transport
from broker.wire import Command, decode_from
from console import IS_SHOWN, DamagedFile, MessageError, SettingsError, StateError, malloc
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
        self._task, self._transport, self._clock = task, transport, clock
        self._asks_again = asks_again
        self._on_event = _logged(on_event)
        self._course = Course(config, clock=clock)
        self._uploads, self._conflicts = Uploads(), NameConflicts()
        self._reception = Reception(self._course, self._uploads)
        self._signs_of_life = SignsOfLife(
            attendance=self._course.attendance,
            uploads=self._uploads,
            conflicts=self._conflicts,
            admission=self._course.admission,
            trust=config.membership.trust,
            clock=clock,
            on_event=self._on_event,
            on_patience=lambda seconds: self._ledger.record({"patience_s": seconds}),
        )
        self._has_checked_metric = False
        self._is_stopping = False

    @property
    def _config(self) -> AggregatorConfig:
        return self._course.config

    @property
    def _run(self) -> OpenedRun:
        return self._course.run

    @property
    def _ledger(self) -> Ledger:
        return self._course.ledger

    @property
    def _current(self) -> CurrentRound:
        return self._course.current

    # -- starting -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens or resumes the run, and makes sure that its newest model is on the stream."""
        try:
            self._start()
        except (StateError, OSError):
            self._check_leads()
            raise

    def _start(self) -> None:
        self._course.begin(
            opened(
                self._config,
                self._task,
                self._transport,
                summing=self._summing,
                admission=self._course.admission,
                conflicts=self._conflicts,
                clock=self._clock,
                on_event=self._on_event,
            )
        )
        last = self._ledger.last_closed_round()
        self._course.follow(last + 1)
        if not self._config.ending.only_evaluates:
            _check_rounds(last, self._config)
        has_closed = last > self._ledger.base_round()
        if has_closed:  # perhaps just before a kill
            num_folded = int(self._ledger.round(last)["num_folded"])
            uploads = PartialUploads(last, num_shards=self._config.topology.num_shards, num_before=num_folded)
            delete_abandoned_sums(self._course, uploads)
            self._check_metric(last)
        reason = reason_to_end(last, config=self._config, opened=self._run)
        if reason is None or self._ledger.frozen(last + 1) is not None:
            self._go_on(last + 1)
            return
        if asks_sites(self._course, last):
            self._run.broadcaster.ensure(last + 1, only_evaluate=True)
            open_last_evaluation(self._course, last, on_event=self._on_event)
            return
        self._run.broadcaster.ensure(last + 1, is_finished=True)
        if has_closed:
            self._run.retention.keep(last)
        self._end(reason)

    def _go_on(self, number: int) -> None:
        """Opens a round in which updates may already have been folded."""
        self._course.attendance.recall(self._ledger.workers())
        self._course.attendance.expect(
            self._ledger.num_present(),
            now=self._clock(),
            patience_s=self._ledger.patience_s(),
            num_chosen=self._ledger.num_chosen(),
        )
        self._course.open_in_ledger(number)
        try:
            current = self._course.open(number)
            current.withdraw(self._course.admission)  # the list may have changed meanwhile
        except DamagedFile as error:
            log.error("%s; doing round %d again", error, number)
            self._ledger.undo_from(number)
            current = self._course.open(number)
        if current.updates.num_folded:
            log.info("round %d goes on with %d updates folded", number, current.updates.num_folded)
        if self._asks_again:
            self._ledger.ask_again()
        self._run.broadcaster.ensure(number)
        current.restart_clock()
        current.emit_opened()
        current.ask_keepers()

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
        if self._course.has_begun:
            self._run.bodies.clear()
        try:
            self._transport.close()
        finally:
            if self._course.has_begun:
                self._ledger.close()

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
        if self._course.has_begun:
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
            counts = self._reception.take(delivery)
        if not self.is_finished and (counts or self._clock() >= due_at):
            self._do_what_is_due()
        return delivery is not None

    def _do_what_is_due(self) -> None:
        if self._course.admission.look():
            self._course.attendance.keep_only(self._course.admission.admits)
            self._current.withdraw(self._course.admission)
        if self._conflicts.is_due(now=self._clock()):
            self._conflicts.announce(now=self._clock())
            self._run.broadcaster.announce_conflicts()
        for settled in self._run.bodies.settle():
            self._reception.take_up(settled)
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
        if self._course.admission.looks_every_s is not None:
            times.append(self._course.admission.looks_every_s)
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
        self._course.follow(number)
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

    # -- closing --------------------------------------------------------------------------------------------

    def _close_round(self, by: ClosedBy) -> None:
        current, number = self._current, self._current.number
        delete_abandoned_uploads(self._course, self._uploads, number)
        current.refusals.record_dropped()
        closed = close_round(current, by, config=self._config, opened=self._run)
        self._check_metric(number)
        reason = reason_to_end(number, config=self._config, opened=self._run)
        if reason is None:
            self._open_after(current, closed)
        elif asks_sites(self._course, number):
            current.updates.settle()
            self._run.broadcaster.publish(number + 1, closed.body, only_evaluate=True)
            open_last_evaluation(self._course, number, on_event=self._on_event)
        else:
            current.updates.settle()  # before the final model is out: then nobody may restart a killed aggregator
            self._run.broadcaster.publish(number + 1, closed.body, is_finished=True)
            self._end(reason)
        delete_abandoned_sums(self._course, current.partial_uploads)
        self._run.retention.keep(number)

    def _check_metric(self, number: int) -> None:
        """Warns, once in this process, if the run goes by a metric that there is none of after this round."""
        metric = self._config.ending.aim.metric
        if self._has_checked_metric or metric is None:
            return
        names = self._ledger.metric_names(number)
        if not names:
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
            self._course.open_in_ledger(number)
        self._run.broadcaster.publish(number, closed.body)
        if self._run.has_large_model:
            malloc.give_back()
        self._course.open(number).emit_opened()
        last.updates.settle()

    def _close_last_evaluation(self) -> None:
        last = self._current.number - 1
        close_last_evaluation(self._course, on_event=self._on_event)
        reason = reason_to_end(last, config=self._config, opened=self._run)
        if reason is None:
            log.warning("the run was extended while its last model was measured: run the same command again to go on")
        self._end(reason or "all rounds are done")

    def _end(self, reason: str) -> None:
        end_run(reason, config=self._config, opened=self._run)
        self._course.end()
        self.is_finished = True


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
