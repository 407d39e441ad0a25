"""A simulation over RabbitMQ: the aggregator here, every worker a process of its own, as it would be at a site."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from console import FedmqError
from simulation.settings import SimulationSettings
from simulation.sites import site_name

_LEAVE_S = 20.0


class WorkerProcesses:
    """The workers' processes, inside a ``with``. One that fails is reported at once, and by ``check``."""

    def __init__(self, settings: SimulationSettings, *, queue: str, logs: Path, on_failure: Callable[[], None]) -> None:
        self._settings, self._queue, self._logs, self._on_failure = settings, queue, logs, on_failure
        self._processes: list[subprocess.Popen[bytes]] = []
        self._watchers: list[threading.Thread] = []
        self._failures: list[str] = []
        self._is_leaving = False

    def __enter__(self) -> "WorkerProcesses":
        self._logs.mkdir(parents=True, exist_ok=True)
        for index in range(self._settings.workers):
            self._start(index)
        return self

    def __exit__(self, *error: object) -> None:
        """Those that saw the end of the run leave by themselves; the others are told to."""
        self._is_leaving = True
        for process in self._processes:
            if error[0] is not None or self._failures:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        for watcher in self._watchers:
            watcher.join()

    def terminate(self) -> None:
        """Tells all workers to leave."""
        self._is_leaving = True
        for process in self._processes:
            process.terminate()

    def check(self) -> None:
        """A FedmqError if a worker failed, with what it said last."""
        if self._failures:
            raise FedmqError("; ".join(self._failures))

    def _start(self, index: int) -> None:
        settings, name = self._settings, site_name(index)
        assert settings.broker is not None
        arguments = {
            "queue": self._queue,
            "task": settings.task,
            "name": name,
            "site": f"{index}/{settings.workers}",
            "partition": settings.partition,
            "device": "cpu",
            "state": str(self._logs),
        }
        flags = [part for flag, value in arguments.items() for part in (f"--{flag}", value)]
        flags += [part for name_ in ("tls_ca", "tls_cert", "tls_key") for part in self._tls_flag(name_)]
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(settings.broker.get_secret_value()),
            )
        self._processes.append(process)
        watcher = threading.Thread(target=self._watch, args=(process, name), name=f"watch {name}", daemon=True)
        watcher.start()
        self._watchers.append(watcher)

    def _tls_flag(self, name: str) -> list[str]:
        path = getattr(self._settings, name)
        return [f"--{name.replace('_', '-')}", str(path)] if path else []

    def _watch(self, process: subprocess.Popen[bytes], name: str) -> None:
        code = process.wait()
        if code != 0 and not self._is_leaving:
            lines = (self._logs / f"{name}.log").read_text(errors="replace").splitlines()
            self._failures.append(f"{name} left with exit code {code}: {lines[-1] if lines else 'it said nothing'}")
            self._on_failure()


def _environment(broker: str) -> dict[str, str]:
    """Ours without its settings; the broker's URL goes here, since command lines are for all to read."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("FEDMQ_")}
    return inherited | {"FEDMQ_BROKER": broker}
