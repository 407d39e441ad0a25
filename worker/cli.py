"""``fl-worker``: joins a federation, trains until the run is finished, leaves."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch

from broker import connect, redacted
from broker.wire import Topology
from console import (
    ExitCode,
    Heartbeat,
    Terminal,
    configure_logging,
    exit_code_of,
    fan_out,
    malloc,
    private_files,
    read_settings,
)
from console.serving import served
from identities import membership
from learning import load_task
from worker.config import WorkerConfig
from worker.device import pick_device
from worker.name import name_of_machine
from worker.service import Worker
from worker.settings import WorkerSettings
from worker.state import OnDisk, Positions
from worker.watchers import WorkerMetrics, WorkerView

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
        name = settings.own_name or _name_of_machine(settings, stack)
        view = WorkerView(name, queue=settings.queue, presence=lambda: worker.presence)
        terminal = Terminal(settings, view, prog=_PROG, argv=argv, state=settings.state)
        stack.enter_context(terminal)
        stack.enter_context(private_files(settings.state))
        carried = OnDisk(settings.state, name) if settings.state else None
        if carried is not None:
            carried.check()
        if settings.threads:
            torch.set_num_threads(settings.threads)
        task = load_task(settings.task, settings.site_of(name))
        device = pick_device(settings.device)
        transport = connect(settings, role=f"worker {name}", on_link=fan_out(view.on_link))
        stack.callback(transport.close)
        metrics = WorkerMetrics(lambda: worker.presence)
        heartbeat = Heartbeat(lambda: worker.announce(), every_s=settings.presence_every_s)
        config = WorkerConfig(
            name=name,
            topology=Topology(settings.queue),
            inline_cap=settings.inline_cap,
            run=settings.run,
            device=device,
            presence_every_s=settings.presence_every_s,
            membership=membership(settings, "worker", name),
            policy=settings.policy,
        )
        worker = Worker(
            config,
            task,
            transport,
            carried=carried,
            positions=Positions(_newest_model(settings, name)),
            on_event=fan_out(view.on_event, metrics.on_event),
            announce_soon=heartbeat.soon,
        )
        stack.enter_context(served(metrics.registry, settings))
        terminal.on_signals(worker.stop)
        worker.start()
        stack.enter_context(heartbeat)
        worker.run()
    return ExitCode.OK


def _newest_model(settings: WorkerSettings, name: str) -> Path | None:
    """Where the newest model seen is noted; of each queue by itself, for runs on two of them go on side by side."""
    return settings.state / name / f"newest-model-{settings.queue}.json" if settings.state else None


def _name_of_machine(settings: WorkerSettings, stack: contextlib.ExitStack) -> str:
    """A name that no other worker on this machine gets, until the stack is left."""
    name, lock = name_of_machine(settings.name_prefix)
    stack.enter_context(lock)
    return name


if __name__ == "__main__":
    raise SystemExit(main())
