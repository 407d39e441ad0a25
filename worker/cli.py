"""``fl-worker``: joins a federation, trains until the run is finished, leaves."""

import contextlib
import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from broker import look, redacted
from console import (
    ExitCode,
    FedmqError,
    TaskError,
    Terminal,
    check_has_script,
    configure_logging,
    environment_of,
    exit_code_of,
    fan_out,
    malloc,
    private_files,
    read_settings,
    split_arguments,
)
from learning import load_task
from learning.devices import deterministic
from learning.scripts import from_script, run_script
from worker.joining import joined, named
from worker.settings import WorkerSettings
from worker.watchers import WorkerView

_PROG = "fl-worker"
_DESCRIPTION = "Reads the newest model from the broker, trains it on this site's data, and publishes the update."
_EXAMPLES = """\
  FEDMQ_BROKER=amqps://user:secret@broker:5671/ fl-worker --queue updates --task digits
  fl-worker --task my_task.py:task --name hospital-a --device auto --state /var/lib/fedmq
  fl-worker --task my_task.py:task --state /var/lib/fedmq --save-model hospital-a.safetensors
  fl-worker --task digits --site 0/8 --partition dirichlet:0.5
  fl-worker --script train.py --name hospital-a -- --epochs 3 --data /data/hospital-a
  fl-worker --check"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    own, of_script = split_arguments(argv)
    settings = read_settings(WorkerSettings, own, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    malloc.keep_little()
    if settings.check:
        return _check(settings)
    if settings.script is not None:
        return _run_script(settings, settings.script, of_script)
    check_has_script(settings.script, of_script)
    return _work(settings, argv)


def _check(settings: WorkerSettings) -> ExitCode:
    configure_logging(settings.log_level, log_format=settings.log_format)
    if settings.credentials is not None:
        settings.credentials.membership("worker", settings.own_name)
    transport = look(settings, role="check", spent_s=time.process_time())
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
                devices=settings.device.found,
                on_event=view.on_event,
                on_link=fan_out(view.on_link),
                on_signals=terminal.on_signals,
            )
        )
        gc.collect()
        gc.freeze()  # model and task stay: collections, of which tensors by the thousand ask for many, pass them by
        worker.run()
    return ExitCode.OK


def _run_script(settings: WorkerSettings, script: Path, arguments: Sequence[str]) -> ExitCode:
    """Runs a script, which joins by itself: our settings are its environment. Its errors are its own."""
    configure_logging(settings.log_level, log_format=settings.log_format)
    if "threads" in settings.model_fields_set:
        torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    os.environ |= environment_of(settings, settings.model_fields_set - {"task", "script", "check"})
    try:
        with deterministic(is_wanted=settings.deterministic):
            was_reached = run_script(script, arguments)
    except FedmqError:
        raise
    except Exception as error:
        trace = from_script(error, script)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return ExitCode.FAILED
    if not was_reached:
        raise TaskError(f"{script} ended without a loop over fedmq.rounds(model), and so was no worker")
    return ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
