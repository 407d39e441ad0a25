"""One thread that owns one connection: it does the jobs given to it, serves heartbeats, and reconnects.

A pika connection belongs to one thread. To get something from the broker, other threads hand the link a job, a
function of the link, and wait for its result. A job that a lost connection interrupts is done again on the next one.
"""

import concurrent.futures
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import pika
import tenacity
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, NackError

from broker.addresses import redacted
from broker.backoff import jittered_s
from broker.rabbitmq.links.connection import PATIENCE_S, close_at_once, connect, translated
from broker.rabbitmq.links.turns import Turns
from broker.settings import BrokerSettings
from console import BrokerError, BrokerFault, BrokerRefused, BrokerUnreachable, FedmqError, QueueFull, QueueMissing

log = logging.getLogger(__name__)
T = TypeVar("T")

_PUBLISH = "publish"
_LOOKS_EVERY_S = 5.0
"""How long a channel closed by the broker may go unnoticed; a lost connection is noticed at once."""
_POLL_S = 0.02
_TOLD_EVERY_S = 10.0
"""How often it is said that an answer does not come."""
_LOOK_UP_S = 1.0
_FIRST_ANSWER_S = 2.0
"""How long the first answer may take, besides the connection."""
_FAULT_PAUSE_S = 1.0
_MOST_FAULTS_HERE = 5
"""How often a job may meet a fault at one node before another is tried: a lead ends with its connection."""
_CLOSING_S = 5.0
"""How long the end of a thread is waited for that may wait for a broker which never answers."""
_NEXT_AFTER_S = 5.0
"""How long the first look at a node of several takes; each later round of them takes longer, as they may be busy."""
_LEAST_PATIENCE_S = 1.0
_MAX_BACKOFF_S = 30.0
_MAX_WAIT_FOR_QUEUE_S = 2.0


@dataclass(slots=True)
class _Job:
    run: Callable[["Link"], Any]
    is_retried: bool
    waits_for_queue: bool = False
    raises_fault: bool = False
    num_waits: int = 0
    num_faults: int = 0
    result: Future[Any] = field(default_factory=Future)


class Link:
    """A connection that is restored whenever it is lost, at the next of the addresses.

    With ``is_mended`` False there is only one connection: when that is lost, every call raises why. With ``is_told``
    False, what it goes through is left to the error that may come of it, as for a command that ends soon.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        name: str,
        *,
        turns: Turns,
        waits_for_queue: bool = True,
        is_mended: bool = True,
        is_told: bool = True,
        on_open: Callable[["Link"], None] = lambda link: None,
        on_lost: Callable[[], None] = lambda: None,
        on_failed: Callable[[FedmqError], None] = lambda error: None,
        on_problem: Callable[[str | None], None] = lambda problem: None,
    ) -> None:
        self._settings = settings
        self._name = name
        self._turns = turns
        self._begun_at = 0.0
        """When it began to connect."""
        self._num_rounds = 0
        """How often all addresses have been tried since the last connection."""
        self._passing = (BrokerUnreachable, QueueMissing) if waits_for_queue else (BrokerUnreachable,)
        self._is_mended = is_mended
        self._told_at = logging.WARNING if is_told else logging.DEBUG
        self._on_open, self._on_lost, self._on_failed = on_open, on_lost, on_failed
        self._on_problem = on_problem
        self._problem: str | None = None
        self._blocked_by: str | None = None
        self._jobs: deque[_Job] = deque()
        self._channels: dict[str, BlockingChannel] = {}
        self._subscribed: list[BlockingChannel] = []
        self._closing: list[BlockingChannel] = []
        self._connection: pika.BlockingConnection | None = None
        self._was_open = False
        self._is_impatient = False
        self._is_stuck = False
        """Whether the thread may be waiting for an answer that does not come."""
        self._why_lost: str | None = None
        self._failure: FedmqError = BrokerUnreachable("the connection is closed")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # -- from any thread ------------------------------------------------------------------------------------

    def call(
        self,
        job: Callable[["Link"], T],
        *,
        is_retried: bool = True,
        waits_for_queue: bool = False,
        raises_fault: bool = False,
        within_s: float = math.inf,
    ) -> T:
        """Has the thread do ``job`` and returns its result.

        ``is_retried``: again after a lost connection, or while the queue is full. ``waits_for_queue``: again while the
        queue is missing. ``raises_fault``: a BrokerFault is raised instead of retried. ``within_s``: a
        BrokerUnreachable if it takes longer; a first connection may take what the settings give it.
        """
        result = self._add(_Job(job, is_retried, waits_for_queue, raises_fault))
        return self.result_of(result, within_s=within_s)  # type: ignore[no-any-return]

    def submit(self, job: Callable[["Link"], T]) -> "Future[T]":
        """Has the thread do ``job`` in its turn, again after a lost connection; see ``result_of``."""
        return self._add(_Job(job, is_retried=True))

    def result_of(self, result: "Future[T]", *, within_s: float = math.inf) -> T:
        """Waits for a job's result, and says so if that takes long."""
        if not self._was_open:
            within_s = max(within_s, self._settings.connect_timeout_s + _FIRST_ANSWER_S)
        begun_at, num_told = time.monotonic(), 0
        while not result.done():
            left_s = within_s - (time.monotonic() - begun_at)
            with contextlib.suppress(concurrent.futures.TimeoutError):  # or the job's own error, which is raised below
                result.exception(min(_LOOK_UP_S, max(0.0, left_s)))
                break
            if not self._thread.is_alive():  # it ended while the job was handed over
                self._abandon_jobs()
            self.check_patience()
            waited_s = time.monotonic() - begun_at
            if waited_s >= within_s:
                self._is_stuck = True
                raise BrokerUnreachable(self._no_answer(within_s))
            if waited_s >= (num_told + 1) * _TOLD_EVERY_S:
                # pika reports a blocked connection only after what it blocks
                num_told += 1
                words = "no answer for %.0f s: broker away, or short of memory or disk"
                log.log(self._told_at, f"%s: {words}", self._name, waited_s)
                self._set_problem(self._problem or "no answer: broker away, or short of memory or disk")
        return result.result()

    def post(self, job: Callable[["Link"], None], *, on_error: Callable[[BaseException], None] | None = None) -> None:
        """Has the thread do ``job`` soon; drops it if there is no connection, or if that breaks first.

        ``on_error`` is told, in whatever thread, why it was dropped or what it raised.
        """
        if self._connection is None:
            if on_error is not None:
                on_error(BrokerUnreachable("there is no connection"))
            return
        result = self._add(_Job(job, is_retried=False))
        if on_error is not None:
            result.add_done_callback(partial(_report_error, on_error))

    @property
    def is_blocked(self) -> bool:
        """Whether the broker has stopped reading what we send, being short of memory or disk."""
        return self._blocked_by is not None

    def give_up_waiting(self) -> None:
        """Makes this and every later waiting ``call`` raise BrokerUnreachable soon. Safe in a signal handler."""
        self._is_impatient = True

    def check_patience(self) -> None:
        """Raises BrokerUnreachable after ``give_up_waiting``."""
        if self._is_impatient:
            why = f" ({self._problem})" if self._problem else ""
            raise BrokerUnreachable(f"asked to stop while the broker was away or accepted nothing{why}")

    def _no_answer(self, within_s: float) -> str:
        why = f" ({self._problem})" if self._problem else ""
        where = redacted(self._turns.current) if self._connection else redacted(self._settings.broker)
        return (
            f"{where} did not answer within {within_s:.0f} s{why}: it is overloaded, or a node of its cluster is down,"
            " or too many for a majority; see rabbitmqctl cluster_status"
        )

    def close(self) -> None:
        """Does the jobs already given if the connection is open, then ends the thread.

        A thread that waits for a broker which never answers is left to the end of the process.
        """
        self._stopping.set()
        self._wake()
        self._thread.join(_CLOSING_S if self._is_impatient or self._is_stuck else None)

    def _add(self, job: _Job) -> Future[Any]:
        self._jobs.append(job)
        self._wake()
        if not self._thread.is_alive():  # it may have ended before it saw this job
            self._abandon_jobs()
        return job.result

    def _set_problem(self, problem: str | None) -> None:
        """Reports the problem if it has changed; None: there is none any more."""
        if problem != self._problem:
            self._problem = problem
            self._on_problem(problem)

    def _wake(self) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(AMQPError):  # just lost: jobs are done once it is open again
                connection.add_callback_threadsafe(lambda: None)

    # -- for jobs, in the thread ----------------------------------------------------------------------------

    def channel(self, role: str, *, confirms: bool = True) -> BlockingChannel:
        """The channel for one role, opened when first asked for; with ``confirms``, publishing on it waits for them."""
        channel = self._channels.get(role)
        if channel is None or not channel.is_open:
            assert self._connection is not None
            channel = self._channels[role] = self._connection.channel()
            if confirms:
                channel.confirm_delivery()
        return channel

    def publish(self, exchange: str, key: str, body: bytes, properties: pika.BasicProperties) -> None:
        """Returns once the broker has it, on a queue that it answers for; a channel error if it reached none.

        After a refusal the next message goes over a new channel: RabbitMQ remembers for each channel at which node a
        quorum queue's leader is, and refuses everything on it once that node is dead.
        """
        try:
            self.channel(_PUBLISH).basic_publish(exchange, key, body, properties, mandatory=True)
        except NackError:
            self.close_channel(_PUBLISH)
            raise

    def subscription(self, role: str) -> BlockingChannel:
        """The same for a channel that consumes: when it closes, the link reconnects and subscribes again."""
        channel = self.channel(role)
        channel.add_on_cancel_callback(lambda frame: self._lose("the broker ended a subscription"))
        self.need(channel)
        return channel

    def need(self, channel: BlockingChannel) -> None:
        """From now on, the link reconnects when the broker closes this channel."""
        self._subscribed.append(channel)

    def close_channel(self, role: str) -> None:
        """Closes the channel for this role, if it is open; nothing needs it any more."""
        channel = self._channels.pop(role, None)
        if channel in self._subscribed:
            self._subscribed.remove(channel)
        if channel is not None and channel.is_open:
            close_at_once(channel)
            self._closing = [each for each in (*self._closing, channel) if not each.is_closed]

    def wait_for_events(self, seconds: float | None) -> None:
        """Handles deliveries and heartbeats for up to ``seconds``; None: until something happens."""
        assert self._connection is not None
        self._connection.process_data_events(time_limit=seconds)

    def later(self, seconds: float, job: Callable[["Link"], None]) -> None:
        """Does a job after so long, unless the connection is lost before."""
        assert self._connection is not None
        self._connection.call_later(seconds, lambda: job(self))

    def pause(self, seconds: float) -> None:
        """Waits while heartbeats go on."""
        assert self._connection is not None
        self._connection.sleep(seconds)

    # -- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._open()
                try:
                    self._serve()
                except self._passing as error:
                    if not self._is_mended:
                        raise
                    log.warning("%s: %s; reconnecting", self._name, error)
                    self._set_problem(f"{error}; reconnecting")
                    self._drop()
                    self._turns.pass_on()
            self._finish()
        except FedmqError as error:
            self._fail(error)
        except Exception as error:
            log.exception("%s: unexpected error", self._name)
            self._fail(FedmqError(f"{self._name}: {error!r}; please report this"))
        finally:
            self._drop()
            self._abandon_jobs()
            self._set_problem(None)

    def _fail(self, error: FedmqError) -> None:
        self._failure = error
        if not self._stopping.is_set():
            self._on_failed(error)

    def _open(self) -> None:
        give_up: tenacity.stop.stop_base = tenacity.stop_when_event_set(self._stopping)
        self._begun_at = time.monotonic()
        if not self._was_open:
            give_up |= _OutOfPatience(self._left_s)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(self._passing),
            wait=_backoff_s if self._was_open else self._soon_enough_s,
            stop=give_up,
            sleep=self._sleep,
            before_sleep=self._before_wait,
            reraise=True,
        )
        retrying(self._open_once)
        if self._was_open:
            log.info("%s: connected again", self._name)
        self._was_open = True
        self._set_problem(None)

    def _open_once(self) -> None:
        """A connection at one of the addresses; after all have failed once, the most telling of what they said."""
        self._drop()
        failures: list[BrokerError] = []
        self._num_rounds += 1
        for number, address in enumerate(self._turns.each_once()):
            if self._stopping.is_set() and failures:
                break
            try:
                self._open_at(address, patience_s=self._patience_s(len(self._turns) - number))
            except (BrokerUnreachable, BrokerRefused) as error:
                self._drop()
                failures.append(error)
                if len(failures) < len(self._turns):
                    log.log(self._told_at, "%s: %s; trying the next address", self._name, error)
            else:
                self._num_rounds = 0
                return
        raise self._telling(failures)

    def _telling(self, failures: Sequence[BrokerError]) -> BrokerError:
        """A refusal ends us: once we were let in, only if it is all that was said, as a node may refuse by mistake."""
        refusals = [error for error in failures if isinstance(error, BrokerRefused)]
        if refusals and (len(refusals) == len(failures) or not self._was_open):
            return refusals[0]
        return failures[0] if len(failures) == 1 else BrokerUnreachable("; ".join(map(str, failures)))

    def _patience_s(self, num_nodes: int) -> float:
        """How long the next node may take to answer, if there are so many left to be asked in this round."""
        if len(self._turns) == 1:
            return PATIENCE_S
        patience_s = min(PATIENCE_S, _NEXT_AFTER_S * self._num_rounds)
        if self._was_open or not self._settings.connect_timeout_s:
            return patience_s
        return min(patience_s, max(_LEAST_PATIENCE_S, self._left_s() / num_nodes))

    def _left_s(self) -> float:
        """Of the time to connect for the first time."""
        return self._settings.connect_timeout_s - (time.monotonic() - self._begun_at)

    def _soon_enough_s(self, state: tenacity.RetryCallState) -> float:
        """The back-off of a first connection, which does not outlast its time."""
        is_limited = isinstance(_error_of(state), BrokerUnreachable)
        return min(_backoff_s(state), max(0.0, self._left_s())) if is_limited else _backoff_s(state)

    def _open_at(self, address: str, *, patience_s: float) -> None:
        self._connection = connect(address, self._settings, self._name, patience_s=patience_s)
        self._blocked_by = None
        self._connection.add_on_connection_blocked_callback(lambda _, frame: self._blocked(frame.method.reason))
        self._connection.add_on_connection_unblocked_callback(lambda _, frame: self._unblocked())
        try:
            with translated():
                self._on_open(self)
        except BrokerFault as error:
            raise BrokerUnreachable(f"{redacted(address)}: {error}") from error

    def _blocked(self, reason: str) -> None:
        log.warning("%s: the broker is short of memory or disk and accepts nothing; waiting (%s)", self._name, reason)
        self._blocked_by = "the broker is short of memory or disk and accepts nothing"
        self._set_problem(self._blocked_by)

    def _unblocked(self) -> None:
        log.info("%s: the broker accepts messages again", self._name)
        self._blocked_by = None
        self._set_problem(None)

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _before_wait(self, state: tenacity.RetryCallState) -> None:
        error = _error_of(state)
        if not isinstance(error, QueueMissing):
            wait_s = state.next_action.sleep if state.next_action else 0.0
            log.log(self._told_at, "%s: %s; trying again in %.1f s", self._name, error, wait_s)
            self._set_problem(f"{error}; trying again")
        elif state.attempt_number == 1:
            log.info("%s: no queue '%s' there yet; waiting for the aggregator", self._name, self._settings.queue)
            self._set_problem(f"no queue '{self._settings.queue}' there yet; waiting for the aggregator")

    def _serve(self) -> None:
        self._look_again()
        while not self._stopping.is_set():
            self._do_jobs()
            try:
                with translated():
                    self.wait_for_events(None)
            except BrokerFault as error:
                raise BrokerUnreachable(str(error)) from error
            if self._why_lost is None and not all(channel.is_open for channel in self._subscribed):
                self._lose("the broker closed a channel, perhaps because an ack took too long")
            if self._why_lost is not None:
                raise BrokerUnreachable(self._why_lost)

    def _look_again(self) -> None:
        """Has ``wait_for_events`` return every now and then though nothing happens; one timer, not one a wait."""
        self.later(_LOOKS_EVERY_S, Link._look_again)

    def _lose(self, reason: str) -> None:
        self._why_lost = reason

    def _do_jobs(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            try:
                with translated():
                    result = job.run(self)
            except BrokerUnreachable as error:
                if job.is_retried:
                    self._jobs.appendleft(job)
                else:
                    job.result.set_exception(error)
                raise
            except BrokerFault as error:
                if job.raises_fault or not job.is_retried:
                    job.result.set_exception(error)
                else:
                    self._jobs.appendleft(job)
                    self._wait_after_fault(job, error)
                if not self._is_open():
                    raise BrokerUnreachable(str(error)) from error
            except (QueueFull, QueueMissing) as error:
                waits = job.waits_for_queue if isinstance(error, QueueMissing) else job.is_retried
                if not waits or self._stopping.is_set():
                    job.result.set_exception(error)
                else:
                    self._jobs.appendleft(job)
                    self._wait_for_queue(job, error)
            except Exception as error:
                job.result.set_exception(error)
            else:
                job.result.set_result(result)
                self._set_problem(self._blocked_by)

    def _is_open(self) -> bool:
        return self._connection is not None and self._connection.is_open

    def _wait_after_fault(self, job: _Job, error: BrokerFault) -> None:
        """On the same connection, if that is left; from a node that fails again and again to another one."""
        if job.num_faults % 30 == 0:
            log.log(self._told_at, "%s: %s; trying again", self._name, error)
            self._set_problem(f"{error}; trying again")
        job.num_faults += 1
        if not self._is_open():
            self._stopping.wait(_FAULT_PAUSE_S)
        elif job.num_faults % _MOST_FAULTS_HERE == 0 and len(self._turns) > 1:
            raise BrokerUnreachable(str(error)) from error
        else:
            with translated():
                self.pause(_FAULT_PAUSE_S)

    def _wait_for_queue(self, job: _Job, error: FedmqError) -> None:
        wait_s = min(0.1 * 2 ** min(job.num_waits, 10), _MAX_WAIT_FOR_QUEUE_S)
        if job.num_waits % 30 == 0:
            log.log(self._told_at, "%s: %s; waiting", self._name, error)
            self._set_problem(f"{error}; waiting")
        job.num_waits += 1
        with translated():
            self.pause(wait_s)

    def _finish(self) -> None:
        """Does what was posted before the end, such as the last acks."""
        if self._connection is not None and self._connection.is_open:
            with contextlib.suppress(BrokerUnreachable):
                self._do_jobs()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._channels.clear()
        self._subscribed.clear()
        self._why_lost = None
        if connection is None:
            return
        with contextlib.suppress(AMQPError, OSError):
            while connection.is_open and not all(channel.is_closed for channel in self._closing):
                connection.process_data_events(_POLL_S)  # pika cannot close a connection while a channel is closing
            if connection.is_open:
                connection.close()
        self._closing.clear()
        self._on_lost()

    def _abandon_jobs(self) -> None:
        while self._jobs:
            self._jobs.popleft().result.set_exception(self._failure)


def _report_error(on_error: Callable[[BaseException], None], result: "Future[Any]") -> None:
    error = result.exception()
    if error is not None:
        on_error(error)


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _backoff_s(state: tenacity.RetryCallState) -> float:
    """Exponential with full jitter, so that a fleet does not come back all at once."""
    longest_s = _MAX_WAIT_FOR_QUEUE_S if isinstance(_error_of(state), QueueMissing) else _MAX_BACKOFF_S
    return jittered_s(state.attempt_number, longest_s=longest_s)


class _OutOfPatience(tenacity.stop.stop_base):
    """Stops when nobody answered until no time is left, but not at missing queues: the aggregator will make them."""

    def __init__(self, left_s: Callable[[], float]) -> None:
        self._left_s = left_s

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        return isinstance(_error_of(state), BrokerUnreachable) and self._left_s() <= 0
