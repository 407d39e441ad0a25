"""A simulation over RabbitMQ: the aggregator in this process, every worker in its own, as it would be at a site."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from broker import WireSettings
from console import ENV_PREFIX, Arguments, FedmqError, environment_of
from simulation.settings import SimulationSettings

_LEAVE_S = 20.0


class WorkerProcesses:
    """The workers' processes, inside a ``with``. A failure is reported at once, and by ``check``."""

    def __init__(
        self,
        settings: SimulationSettings,
        of_script: Sequence[str] = (),
        *,
        queue: str,
        logs: Path,
        identities: Mapping[str, Mapping[str, str]],
        on_failure: Callable[[], None],
    ) -> None:
        """``identities``: site -> what is added to the environment of its worker, so that it can sign."""
        self._settings, self._queue, self._logs, self._on_failure = settings, queue, logs, on_failure
        self._sites = settings.simulated_sites
        self._of_script, self._identities = of_script, identities
        self._processes: list[subprocess.Popen[bytes]] = []
        self._watchers: list[threading.Thread] = []
        self._failures: list[str] = []
        self._is_leaving = False

    def __enter__(self) -> "WorkerProcesses":
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for index in range(self._settings.workers):
                self._start(index)
        except BaseException:
            self._leave(at_once=True)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Workers that saw the end of the run leave by themselves; the others are terminated."""
        self._leave(at_once=error[0] is not None or bool(self._failures))

    def terminate(self) -> None:
        """Tells all workers to leave."""
        self._is_leaving = True
        for process in self._processes:
            process.terminate()

    def check(self) -> None:
        """Raises a FedmqError if a worker failed, with its last log line."""
        if self._failures:
            raise FedmqError("; ".join(self._failures))

    def _leave(self, *, at_once: bool) -> None:
        self._is_leaving = True
        if at_once:
            self.terminate()
        for process in self._processes:
            try:
                process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        for watcher in self._watchers:
            watcher.join()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()

    def _start(self, index: int) -> None:
        settings, name = self._settings, self._sites.names[index]
        arguments = {
            "queue": self._queue,
            **({"task": settings.task} if settings.script is None else {"script": str(settings.script)}),
            "name": name,
            "site": f"{index}/{settings.workers}",
            "partition": settings.partition,
            "device": "cpu",
            "threads": "1",  # a script would take all cores
            "state": str(self._logs),
        }
        flags = [part for flag, value in arguments.items() for part in (f"--{flag}", value)]
        flags += ["--deterministic"] if settings.deterministic else []
        flags.append("--no-keep-results")  # two models of each of many workers, for nobody
        of_script = ["--", *self._of_script] if self._of_script else []
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "simulation.tied.worker", *flags, *of_script],
                stdin=subprocess.PIPE,  # ties the worker to us: nobody writes to it, and it closes when we end
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **_environment(settings, settings.task_args | self._sites.named[name]),
                    **self._identities.get(name, {}),
                },
            )
        self._processes.append(process)
        watcher = threading.Thread(target=self._watch, args=(process, name), name=f"watch {name}", daemon=True)
        watcher.start()
        self._watchers.append(watcher)

    def _watch(self, process: subprocess.Popen[bytes], name: str) -> None:
        code = process.wait()
        if code != 0 and not self._is_leaving:
            said = _last_word((self._logs / f"{name}.log").read_text(errors="replace"))
            self._failures.append(f"{name} exited with code {code}: {said}")
            self._on_failure()


def _environment(settings: SimulationSettings, task_args: Arguments) -> dict[str, str]:
    """Our environment plus the simulation's broker and wire settings, since anybody can read command lines."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ENV_PREFIX)}
    own = environment_of(settings, ("broker", *WireSettings.model_fields))
    return inherited | own | {f"{ENV_PREFIX}TASK_ARGS": str(task_args)}


def _last_word(log: str) -> str:
    """The message in the last line of a log, in either format."""
    lines = log.splitlines()
    if not lines:
        return "it logged nothing"
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(lines[-1])["message"])
    return lines[-1]
