"""``fl-worker``: joins a federation, trains until the run is finished, leaves."""

import contextlib
from collections.abc import Sequence

import torch

from broker import connect, redacted
from console import (
    ExitCode,
    Terminal,
    configure_logging,
    exit_code_of,
    fan_out,
    malloc,
    private_files,
    read_settings,
)
from learning import load_task
from worker.device import pick_device
from worker.joining import joined, named
from worker.settings import WorkerSettings
from worker.watchers import WorkerView

_PROG = "fl-worker"
_DESCRIPTION = "Reads the newest model from the broker, trains it on this site's data, and publishes the update."
_EXAMPLES = """\
  FEDMQ_BROKER=amqps://user:secret@broker:5671/ fl-worker --queue updates --task digits
  fl-worker --task my_task.py:task --name hospital-a --device auto --state /var/lib/fedmq
  fl-worker --task digits --site 0/8 --partition dirichlet:0.5
  fl-worker --check"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(WorkerSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    malloc.keep_little()
    return _check(settings) if settings.check else _work(settings, argv)


def _check(settings: WorkerSettings) -> ExitCode:
    configure_logging(settings.log_level, log_format=settings.log_format)
    if settings.credentials is not None:
        settings.credentials.membership("worker", settings.own_name)
    transport = connect(settings, role="check")
    with contextlib.closing(transport):
        transport.check()
    print(f"{redacted(settings.broker)} is reachable and has queue '{settings.queue}'")
    return ExitCode.OK


def _work(settings: WorkerSettings, argv: Sequence[str] | None) -> ExitCode:
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(named(settings))
        view = WorkerView(name, queue=settings.queue, presence=lambda: worker.presence)
        terminal = Terminal(settings, view, prog=_PROG, argv=argv, state=settings.state)
        stack.enter_context(terminal)
        stack.enter_context(private_files(settings.state))
        if settings.threads:
            torch.set_num_threads(settings.threads)
        worker = stack.enter_context(
            joined(
                settings,
                name,
                task=lambda: load_task(settings.task, settings.site_of(name)),
                device=lambda: pick_device(settings.device),
                on_event=view.on_event,
                on_link=fan_out(view.on_link),
                on_signals=terminal.on_signals,
            )
        )
        worker.run()
    return ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
