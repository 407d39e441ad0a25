"""What all peers have in common: commands in an environment of their own that write down when a round begins."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from benchmarks.figures import Row
from benchmarks.monitor import Monitor
from benchmarks.place import Command, Failed, wait_for
from benchmarks.workload import Opened, Workload, row_of

SCRIPTS = Path(__file__).parent / "scripts"
EVERY_S = 0.2
_LISTENS_WITHIN_S = 60.0


def environment_of(home: Path, **more: str) -> dict[str, str]:
    """The environment of a command in the virtual environment ``home``; nothing of ours comes along."""
    foreign = ("FEDMQ_", "PYTHON")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    path = f"{home / 'bin'}{os.pathsep}{inherited.get('PATH', '')}"
    return inherited | {"PATH": path, "VIRTUAL_ENV": str(home), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"} | more


def wait_for_port(port: int, command: Command) -> None:
    """Returns when the command listens there."""
    wait_for(lambda: _is_open(port), while_running=[command], timeout_s=_LISTENS_WITHIN_S)


def _is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_for_rounds(opened: Path, workload: Workload, monitor: Monitor, *, while_running: list[Command]) -> None:
    """Returns once the last round to run is opened; Failed if memory or time runs short, or a command ends early."""

    def is_done() -> bool:
        if monitor.is_short_of_memory:
            raise Failed("stopped before the machine ran out of memory")
        return len(times_in(opened)) >= workload.rounds_to_run

    wait_for(is_done, while_running=while_running, timeout_s=workload.timeout_s)


def times_in(opened: Path) -> list[float]:
    """Unix times, one a line."""
    if not opened.exists():
        return []
    return [float(line) for line in opened.read_text(encoding="ascii").splitlines()]


def row(workload: Workload, system: str, opened: Path, monitor: Monitor, *, note: str = "") -> Row:
    rounds = Opened(times_in(opened))
    num_processes: Mapping[str, int] = {"worker": workload.num_workers}
    usage = monitor.usage(rounds.since, rounds.until, num_rounds=len(rounds.seconds), num_processes=num_processes)
    return row_of(workload, system, rounds.seconds, usage, note=note)
