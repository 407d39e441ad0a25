"""Where a run takes place: a folder of its own, a broker, and processes that end with it."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rabbitmq_node import GuardedProcess, RabbitNode

ROOT = Path(__file__).parent.parent
MANY_CONNECTIONS = """\
tcp_listen_options.sndbuf = 32768
tcp_listen_options.recbuf = 32768
tcp_listen_options.backlog = 4096
"""
"""Lines of rabbitmq.conf, as docs/scale.md advises them."""
_TAIL_LINES = 5
_LEAVES_S = 10.0
_LOOKS_EVERY_S = 0.05


class Failed(Exception):
    """A measurement failed; the message says why, and becomes the note of its row."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A running RabbitMQ of our own."""

    url: str
    pid: int


class Command:
    """A running command of ours; its output goes to a file."""

    def __init__(self, args: Sequence[str | Path], *, log: Path, env: dict[str, str]) -> None:
        self._log = log
        self._process = GuardedProcess(args, env, log)
        self._has_ended = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.is_running

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def tail(self) -> str:
        return "\n".join(self.said.splitlines()[-_TAIL_LINES:])

    def end(self) -> None:
        """Sends SIGTERM to it, then SIGKILL to it and all that it started; returns once they are gone."""
        if not self._has_ended:
            self._has_ended = True
            self._process.terminate(timeout_s=_LEAVES_S)


@dataclass(frozen=True, slots=True)
class Place:
    """One run's folder."""

    folder: Path

    @contextmanager
    def room(self, name: str) -> Iterator["Place"]:
        """A folder below this one, which is deleted afterwards."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        try:
            yield Place(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def broker(self) -> Iterator[Broker]:
        """A private node, freshly started."""
        with RabbitNode(self.folder / "node") as node:
            yield Broker(node.url, node.pid)

    @contextmanager
    def commands(self) -> Iterator["Commands"]:
        started = Commands(self.folder)
        try:
            yield started
        finally:
            started.end()


class Commands:
    """The commands of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Command] = []

    def start(self, args: Sequence[str | Path], *, name: str, env: dict[str, str]) -> Command:
        command = Command(args, log=self._folder / f"{len(self._running)}-{name}.log", env=env)
        self._running.append(command)
        return command

    def product(self, command: str, *flags: str, name: str, **settings: str) -> Command:
        """Starts a command of fedmq's, such as fl-worker, from these sources, with these environment variables."""
        function = command.replace("-", "_")
        start = f"import sys; from starting.commands import {function}; sys.exit({function}())"
        return self._start_python("-c", start, *flags, name=name, **settings)

    def script(self, module: str, *flags: str, name: str, **settings: str) -> Command:
        """Starts a module of these sources as a program."""
        return self._start_python("-m", module, *flags, name=name, **settings)

    def _start_python(self, *args: str, name: str, **settings: str) -> Command:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FEDMQ_")}
        env = inherited | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | settings
        return self.start([sys.executable, *args], name=name, env=env)

    def end(self) -> None:
        for command in reversed(self._running):
            command.end()


def wait_for(claim: Callable[[], bool], *, while_running: Sequence[Command], timeout_s: float) -> None:
    """Returns once ``claim()`` holds; Failed if it does not in time, or if one of the commands ends before."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        ended = next((command for command in while_running if not command.is_running), None)
        if ended is not None and not claim():
            raise Failed(f"a process ended early: {ended.tail}")
        if time.monotonic() > deadline:
            raise Failed(f"not done after {timeout_s:g} s")
        time.sleep(_LOOKS_EVERY_S)
