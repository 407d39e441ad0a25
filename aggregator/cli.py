"""``fl-aggregator``: leads a run to its end, resuming from its state directory; or stands by."""

import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from prometheus_client.registry import CollectorRegistry
from rich.console import Console

from aggregator.events import PartialWatcher, RunOpened, ShardLed, StandingBy, Watcher, unwatched
from aggregator.history import NAME as REPORT
from aggregator.history import History, write_report
from aggregator.partial import PartialAggregator
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from aggregator.state import check_result
from aggregator.watchers import (
    AggregatorMetrics,
    AggregatorView,
    PartialMetrics,
    PartialView,
    StatusSender,
    evaluation_table,
    experiment_logs,
)
from broker import Backoff, Transport, connect
from console import (
    BrokerUnreachable,
    ExitCode,
    LeadershipLost,
    QueueMissing,
    StateError,
    Terminal,
    check_has_script,
    exit_code_of,
    fan_out,
    malloc,
    private_files,
    read_settings,
    split_arguments,
)
from console.serving import Health, served
from identities import membership
from learning import Site, Task, load_task
from learning.scripts import ScriptedModel

log = logging.getLogger(__name__)

_PROG = "fl-aggregator"
_DESCRIPTION = """\
Broadcasts the global model, folds the workers' updates into an exact mean, and closes the rounds;
or, with --role partial, sums up the updates of one shard of the workers for the root aggregator."""
_EXAMPLES = """\
  FEDMQ_BROKER=amqps://user:secret@broker:5671/ fl-aggregator --task digits --rounds 20 --quorum 3 --deadline-s 60
  fl-aggregator --config run.yaml --state /var/lib/fedmq/run-7 --run run-7
  fl-aggregator --task my_task.py:task --quorum 80% --min-updates 5 --on-short extend
  fl-aggregator --script train.py --rounds 20 --quorum 3 -- --layers 12
  fl-aggregator --task my_task.py:task --evaluate-only --init model.safetensors --quorum 3
  fl-aggregator --task digits --rounds 20 --quorum 8 --shards 2          (beside it, on any machines:)
  fl-aggregator --role partial --shard 0/2 --queue updates
  fl-aggregator --role partial --shard 1/2 --queue updates
Killed? The same command goes on from its --state (a partial has none). Started twice? The second stands by."""

_TRY_TO_LEAD_EVERY_S = 1.0
_LEADS, _STANDS_BY = "leads", "stands by"
_SWITCH_S = 0.0005
"""How long one Python thread keeps the others waiting. By default 5 ms: while a flood keeps the receiving thread busy,
the one that closes a round would wait that long after each write to the disk, of which there are dozens."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    own, of_script = split_arguments(argv)
    settings = read_settings(AggregatorSettings, own, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    check_has_script(settings.script, of_script)
    role: Role = _Partial(settings) if settings.role == "partial" else _Root(settings, of_script)
    return _run(role, settings, prog=_PROG, argv=argv)


def lead(
    settings: AggregatorSettings, task_of: Callable[[Task], Task], *, prog: str, argv: Sequence[str] | None
) -> ExitCode:
    """Leads a run to its end as ``fl-aggregator`` does, for another command.

    ``task_of`` makes the task that is led of the one that the settings name. The caller sees to the result.
    """
    return _run(_Root(settings, (), task_of), settings, prog=prog, argv=argv)


def _run(role: "Role", settings: AggregatorSettings, *, prog: str, argv: Sequence[str] | None) -> ExitCode:
    with (
        Terminal(settings, role.view, prog=prog, argv=argv, state=role.state) as terminal,
        private_files(role.state),
    ):
        malloc.keep_little()
        sys.setswitchinterval(_SWITCH_S)
        torch.set_num_threads(1)  # makes the initial model the same on any machine
        with role.opened(), served(role.registry, settings, role.health):
            code = _lead_on(role, settings, terminal)
    if code is ExitCode.OK and role.state is not None and settings.evaluate_only:
        _show_evaluation(role.state)
    return code


def _show_evaluation(state: Path) -> None:
    """Prints what the workers measured."""
    with History(state) as history:
        evaluation = (history.summary or {}).get("evaluation")
    if evaluation is not None:
        Console().print(evaluation_table(evaluation))


class Service(Protocol):
    """An aggregator that leads, root or partial."""

    is_finished: bool

    def start(self) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class Role(Protocol):
    """What differs between the root and a partial aggregator, apart from the service itself."""

    @property
    def view(self) -> AggregatorView | PartialView:
        """The live view in its terminal."""

    @property
    def registry(self) -> CollectorRegistry:
        """Its metrics."""

    @property
    def health(self) -> Health:
        """Whether it lives, and leads or stands by."""

    @property
    def state(self) -> Path | None:
        """The state directory that the user has to name to resume; None if there is none."""

    @property
    def name(self) -> str:
        """The name of its connections, for operators."""

    @property
    def on_missing(self) -> str:
        """What it does about a missing queue besides declaring it again, in words."""

    def opened(self) -> contextlib.AbstractContextManager[None]:
        """Holds everything that it needs before it leads for the first time, until the command ends."""

    def stands_by(self) -> None:
        """Called when another aggregator leads."""

    def leading(self, transport: Transport, *, asks_again: bool) -> contextlib.AbstractContextManager[Service]:
        """Its service, once it leads; closed at the end."""

    def finished(self) -> None:
        """Called when the run is over."""


class _Root:
    """Holds the model and leads the run."""

    on_missing = ", and asking the workers to send again"

    def __init__(
        self,
        settings: AggregatorSettings,
        of_script: Sequence[str],
        task_of: Callable[[Task], Task] | None = None,
    ) -> None:
        self._settings, self._of_script, self._task_of = settings, of_script, task_of
        self.config = settings.config
        self.view = AggregatorView()
        self.state: Path | None = settings.state
        self.name = f"aggregator {settings.run}"
        self._metrics = AggregatorMetrics(settings.state)
        self.registry = self._metrics.registry
        self.health = Health(hung_after_s=settings.hung_after_s)
        self._task: Task
        self._on_event: Watcher = unwatched

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        script, site = self._settings.script, Site(args=self._settings.task_args)
        self._task = ScriptedModel(script, self._of_script) if script else load_task(self._settings.task, site)
        if self._task_of is not None:
            self._task = self._task_of(self._task)
        self.config = replace(self.config, membership=membership(self._settings, "aggregator"))
        with experiment_logs(self._settings) as logs:
            in_health = self.health.watcher({StandingBy: _STANDS_BY, RunOpened: _LEADS})
            counting = [] if self._settings.metrics_port is None else [self._metrics.on_event]  # nobody would see it
            self._on_event = fan_out(self.view.on_event, *counting, in_health, *logs)
            yield

    def stands_by(self) -> None:
        self._on_event(StandingBy(queue=self._settings.queue))

    @contextlib.contextmanager
    def leading(self, transport: Transport, *, asks_again: bool) -> Iterator[Service]:
        trust = self.config.membership.trust
        status = StatusSender(transport, num_shards=self._settings.shards, trust=trust)
        on_event = fan_out(self._on_event, status.on_event)
        service = Aggregator(
            self.config, self._task, transport, asks_again=asks_again, on_event=on_event, beat=self.health.beat
        )
        with contextlib.closing(service), status:
            yield service

    def finished(self) -> None:
        """Writes the report. If that fails, the run does not: its model is out. A TaskError if nothing was learned."""
        try:
            log.info("%s", write_report(self._settings.state))
        except (OSError, StateError) as error:
            log.warning("%s was not written: %s", REPORT, error)
        if self._task_of is not None:
            return
        with contextlib.suppress(StateError), History(self._settings.state) as history:
            check_result(history.summary or {"rounds": []})


class _Partial:
    """Sums the updates of one shard for the root."""

    state: Path | None = None
    on_missing = ""

    def __init__(self, settings: AggregatorSettings) -> None:
        self._settings = settings
        self._config = settings.partial_config
        self._queue = settings.queue
        self.name = f"partial aggregator {settings.shard} {settings.run}"
        self.view = PartialView(str(settings.shard), queue=settings.queue)
        self._metrics = PartialMetrics()
        self.registry = self._metrics.registry
        self.health = Health(hung_after_s=settings.hung_after_s)
        in_health = self.health.watcher({StandingBy: _STANDS_BY, ShardLed: _LEADS})
        self._on_event: PartialWatcher = fan_out(self.view.on_event, self._metrics.on_event, in_health)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        self._config = replace(self._config, membership=membership(self._settings, "partial"))
        yield

    def stands_by(self) -> None:
        self._on_event(StandingBy(queue=self._queue))

    def leading(self, transport: Transport, *, asks_again: bool) -> contextlib.AbstractContextManager[Service]:
        service = PartialAggregator(self._config, transport, on_event=self._on_event, beat=self.health.beat)
        return contextlib.closing(service)

    def finished(self) -> None:
        """Does nothing: the root writes the report."""


def _lead_on(role: Role, settings: AggregatorSettings, terminal: Terminal) -> ExitCode:
    """Leads, and stands by whenever another aggregator leads, until the run is finished or a signal stops it."""
    asks_again = False
    stopping = threading.Event()
    backoff = Backoff(time.monotonic)
    while True:
        backoff.begin()
        try:
            return _lead(role, settings, terminal, stopping, asks_again=asks_again)
        except BrokerUnreachable:
            if stopping.is_set():
                return ExitCode.INTERRUPTED
            raise
        except LeadershipLost as error:
            if stopping.is_set():
                return ExitCode.INTERRUPTED
            log.warning("%s; standing by", error)
            asks_again = False
        except QueueMissing as error:
            log.error("%s; declaring the queues again%s", error, role.on_missing)
            asks_again = True
        settings = settings.model_copy(update={"connect_timeout_s": math.inf})
        terminal.on_signals(stopping.set)
        if stopping.wait(backoff.failed_s()):
            return ExitCode.INTERRUPTED


def _lead(
    role: Role, settings: AggregatorSettings, terminal: Terminal, stopping: threading.Event, *, asks_again: bool
) -> ExitCode:
    """Leads once, for as long as the connection holds."""
    on_link = fan_out(role.view.on_link, role.health.on_link)
    transport = connect(settings, role=role.name, topology=settings.topology, on_link=on_link)

    def stop_waiting() -> None:
        stopping.set()
        transport.give_up_waiting()

    terminal.on_signals(stop_waiting)
    with contextlib.closing(transport):
        if not _wait_to_lead(transport, stopping, role.stands_by, beat=role.health.beat):
            return ExitCode.INTERRUPTED
        with role.leading(transport, asks_again=asks_again) as service:

            def stop() -> None:
                stopping.set()
                service.stop()

            terminal.on_signals(stop)
            service.start()
            service.run()
            if service.is_finished:
                role.finished()
    return ExitCode.OK if service.is_finished else ExitCode.INTERRUPTED


def _wait_to_lead(
    transport: Transport, stopping: threading.Event, on_wait: Callable[[], None], *, beat: Callable[[], None]
) -> bool:
    """True once it leads this queue or shard; False if it is stopped before."""
    has_waited = False
    while not stopping.is_set():
        if transport.lead():
            return True
        if not has_waited:
            log.info("another aggregator leads; standing by")
            on_wait()
            has_waited = True
        beat()
        stopping.wait(_TRY_TO_LEAD_EVERY_S)
    return False


if __name__ == "__main__":
    raise SystemExit(main())
