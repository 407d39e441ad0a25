"""``fl-aggregator``: leads a run to its end, or on from where its state directory left it; or stands by."""

import contextlib
import logging
import math
import threading
from collections.abc import Sequence

import torch

from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.command import configure_logging, exit_code_of, on_signals, return_freed_memory
from broker.errors import ExitCode, LeadershipLost, QueueMissing
from broker.rabbitmq import RabbitMQ
from broker.settings import read_settings
from broker.transport import Transport
from learning import Site, Task, load_task

log = logging.getLogger(__name__)

_PROG = "fl-aggregator"
_DESCRIPTION = "Broadcasts the global model, folds the workers' updates into an exact mean, and closes the rounds."
_EXAMPLES = """\
  fl-aggregator --queue updates --task digits --rounds 20 --quorum 3 --deadline-s 60
  fl-aggregator --config run.yaml --state /var/lib/fedmq/run-7 --run run-7
  fl-aggregator --task my_task.py:task --quorum 80% --min-updates 5 --on-short extend
killed? the same command goes on from its --state. Started twice? the second stands by."""

_LOOK_EVERY_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(AggregatorSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    configure_logging(settings.log_level)
    return_freed_memory()
    torch.set_num_threads(1)  # the initial model is then the same on any machine
    task = load_task(settings.task, Site())
    asks_again = False
    stopping = threading.Event()
    while True:
        try:
            return _lead(settings, task, stopping, asks_again=asks_again)
        except LeadershipLost as error:
            if stopping.is_set():
                return ExitCode.INTERRUPTED
            log.warning("%s; standing by", error)
            asks_again = False
        except QueueMissing as error:
            log.error("%s; making the queues anew, and asking the workers to send again", error)
            asks_again = True
        settings = settings.model_copy(update={"connect_timeout_s": math.inf})


def _lead(settings: AggregatorSettings, task: Task, stopping: threading.Event, *, asks_again: bool) -> ExitCode:
    """One aggregator, from the moment it leads until it loses that, is told to stop, or the run is finished."""
    transport = RabbitMQ(settings, role=f"aggregator {settings.run}")
    on_signals(stopping.set)
    with contextlib.closing(transport):
        if not _wait_to_lead(transport, stopping):
            return ExitCode.INTERRUPTED
        with contextlib.closing(Aggregator(settings, task, transport, asks_again=asks_again)) as aggregator:

            def stop() -> None:
                stopping.set()
                aggregator.stop()

            on_signals(stop)
            aggregator.start()
            aggregator.run()
    return ExitCode.OK if aggregator.is_finished else ExitCode.INTERRUPTED


def _wait_to_lead(transport: Transport, stopping: threading.Event) -> bool:
    """True once no other aggregator leads this queue; False if told to stop before."""
    is_told = False
    while not stopping.is_set():
        if transport.lead():
            return True
        if not is_told:
            log.info("another aggregator leads; standing by")
            is_told = True
        stopping.wait(_LOOK_EVERY_S)
    return False


if __name__ == "__main__":
    raise SystemExit(main())
