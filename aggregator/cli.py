"""``fl-aggregator``: leads a run to its end, or on from where its state directory left it; or stands by."""

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from aggregator.events import StandingBy, Watcher
from aggregator.history import NAME as REPORT
from aggregator.history import write_report
from aggregator.partial import PartialAggregator
from aggregator.partial_live import PartialView
from aggregator.rounds import kernel
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from aggregator.watchers import AggregatorMetrics, AggregatorView, StatusSender, experiment_logs
from broker import Transport, connect
from console import (
    ExitCode,
    LeadershipLost,
    QueueMissing,
    StateError,
    Terminal,
    exit_code_of,
    fan_out,
    malloc,
    read_settings,
    served,
)
from learning import Site, Task, load_task

log = logging.getLogger(__name__)

_PROG = "fl-aggregator"
_DESCRIPTION = """\
Broadcasts the global model, folds the workers' updates into an exact mean, and closes the rounds;
or, with --role partial, sums up the updates of one shard of the workers for the aggregator that does."""
_EXAMPLES = """\
  fl-aggregator --queue updates --task digits --rounds 20 --quorum 3 --deadline-s 60
  fl-aggregator --config run.yaml --state /var/lib/fedmq/run-7 --run run-7
  fl-aggregator --task my_task.py:task --quorum 80% --min-updates 5 --on-short extend
  fl-aggregator --task digits --rounds 20 --quorum 8 --shards 2          (beside it, on any machines:)
  fl-aggregator --role partial --shard 0/2 --broker amqp://user:secret@broker:5672/ --queue updates
  fl-aggregator --role partial --shard 1/2 --broker amqp://user:secret@broker:5672/ --queue updates
killed? the same command goes on from its --state; a partial has none. Started twice? the second stands by."""

_LOOK_EVERY_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(AggregatorSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    is_root = settings.role == "root"
    view = AggregatorView() if is_root else PartialView(settings.shard or "", queue=settings.queue)
    state = settings.state if is_root else None
    with Terminal(settings, view, prog=_PROG, argv=argv, state=state) as terminal:
        return _run(settings, terminal, view)


def _run(settings: AggregatorSettings, terminal: Terminal, view: AggregatorView | PartialView) -> ExitCode:
    """Leads, and stands by whenever another one does, until the run is finished or told to stop."""
    malloc.keep_little()
    torch.set_num_threads(1)  # the initial model is then the same on any machine
    if settings.compiled_fold:
        kernel()  # which says so if it cannot be had
    task = load_task(settings.task, Site()) if settings.role == "root" else None
    metrics = AggregatorMetrics(settings.state)
    with experiment_logs(settings) as logs, served(metrics.registry, settings):
        return _lead_on(settings, task, terminal, view, [metrics.look, *logs])


def _lead_on(
    settings: AggregatorSettings,
    task: Task | None,
    terminal: Terminal,
    view: AggregatorView | PartialView,
    watchers: Sequence[Watcher],
) -> ExitCode:
    asks_again = False
    stopping = threading.Event()
    while True:
        try:
            return _lead(settings, task, stopping, terminal, view, watchers, asks_again=asks_again)
        except LeadershipLost as error:
            if stopping.is_set():
                return ExitCode.INTERRUPTED
            log.warning("%s; standing by", error)
            asks_again = False
        except QueueMissing as error:
            then = ", and asking the workers to send again" if settings.role == "root" else ""
            log.error("%s; making the queues anew%s", error, then)
            asks_again = True
        settings = settings.model_copy(update={"connect_timeout_s": math.inf})


def _lead(
    settings: AggregatorSettings,
    task: Task | None,
    stopping: threading.Event,
    terminal: Terminal,
    view: AggregatorView | PartialView,
    watchers: Sequence[Watcher],
    *,
    asks_again: bool,
) -> ExitCode:
    """One aggregator, from the moment it leads until it loses that, is told to stop, or the run is finished.

    Without a task it is a partial one.
    """
    role = f"aggregator {settings.run}" if task else f"partial aggregator {settings.shard} {settings.run}"
    transport = connect(settings, role=role, topology=settings.topology, on_link=fan_out(view.note_link))
    terminal.on_signals(stopping.set)
    with contextlib.closing(transport):
        tell: Watcher = fan_out(*watchers)

        def tell_standing_by() -> None:
            event = StandingBy(queue=settings.queue)
            view.look(event)
            tell(event)

        if not _wait_to_lead(transport, stopping, tell_standing_by):
            return ExitCode.INTERRUPTED
        aggregator: Aggregator | PartialAggregator
        said = StatusSender(transport, num_shards=settings.shards)
        if isinstance(view, PartialView):
            aggregator = PartialAggregator(settings, transport)
            view.leads(aggregator)
        else:
            assert task is not None
            on_event = fan_out(view.look, tell, said.look)
            aggregator = Aggregator(settings, task, transport, asks_again=asks_again, on_event=on_event)
        with contextlib.closing(aggregator), said:

            def stop() -> None:
                stopping.set()
                aggregator.stop()

            terminal.on_signals(stop)
            aggregator.start()
            aggregator.run()
            if aggregator.is_finished and task is not None:
                _report(settings.state)
    return ExitCode.OK if aggregator.is_finished else ExitCode.INTERRUPTED


def _report(state: Path) -> None:
    """The run is over and its model out: a page that cannot be written is no failure of it."""
    try:
        log.info("%s", write_report(state))
    except (OSError, StateError) as error:
        log.warning("no %s: %s", REPORT, error)


def _wait_to_lead(transport: Transport, stopping: threading.Event, tell: Callable[[], None]) -> bool:
    """True once no other aggregator leads this queue or shard; False if told to stop before."""
    is_told = False
    while not stopping.is_set():
        if transport.lead():
            return True
        if not is_told:
            log.info("another aggregator leads; standing by")
            tell()
            is_told = True
        stopping.wait(_LOOK_EVERY_S)
    return False


if __name__ == "__main__":
    raise SystemExit(main())
