"""``fl-aggregator``: leads a run to its end, or on from where its state directory left it."""

import contextlib
from collections.abc import Sequence

import torch

from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.command import configure_logging, exit_code_of, on_signals
from broker.errors import ExitCode
from broker.rabbitmq import RabbitMQ
from broker.settings import read_settings
from learning import Site, load_task

_PROG = "fl-aggregator"
_DESCRIPTION = "Broadcasts the global model, folds the workers' updates into an exact mean, and closes the rounds."
_EXAMPLES = """\
  fl-aggregator --queue updates --task digits --rounds 20 --quorum 3 --deadline-s 60
  fl-aggregator --config run.yaml --state /var/lib/fedmq/run-7 --run run-7
  fl-aggregator --task my_task.py:task --quorum 80% --min-updates 5 --on-short extend
killed? the same command goes on from its --state"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(AggregatorSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    configure_logging(settings.log_level)
    torch.set_num_threads(1)  # the initial model is then the same on any machine
    task = load_task(settings.task, Site())
    transport = RabbitMQ(settings, role=f"aggregator {settings.run}")
    with contextlib.closing(transport):
        aggregator = Aggregator(settings, task, transport)
        on_signals(aggregator.stop)
        aggregator.start()
        aggregator.run()
    return ExitCode.OK if aggregator.is_finished else ExitCode.INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
