"""Processes that begin in hundredths of a second: forked from one that has imported everything a command needs.

    process = zygote().start("crash.armed:run", arguments, log=path)
    process.kill()
    assert process.status == -9

Each is a real process with a pid and a process group of its own, for SIGKILL and SIGSTOP. Whatever was started ends
with the process that asked for it: the zygote kills its children when our end of its standard input closes, however
that happens.

As a program this file is the zygote itself.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

PRELOADED = (
    "torch",
    "sklearn.datasets",
    "aggregator.cli",
    "worker.cli",
    "keeper.cli",
    "simulation.cli",
    "simulation.embedded",
    "operations.status_cli",
    "operations.keys_cli",
)
START_TIMEOUT_S = 60.0

# -- in the process that asks ------------------------------------------------------------------------------------


def our_environment() -> dict[str, str]:
    """The environment as it is, also while another thread, such as a test's fixtures, takes variables away."""
    return {name: value for name in list(os.environ) if (value := os.environ.get(name)) is not None}


class Forked:
    """One started process."""

    def __init__(self, pid: int, log: Path, changed: threading.Condition) -> None:
        self.pid, self.log = pid, log
        self.status: int | None = None
        """Its exit code once it has ended, -9 after a SIGKILL; None while it is there."""
        self._changed = changed

    @property
    def is_running(self) -> bool:
        return self.status is None

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Sends a signal if it is still there."""
        if self.is_running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None if it goes on."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_running, timeout_s)
            return self.status

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.signal(signal.SIGKILL)
        assert self.wait(10.0) is not None, f"{self.pid} outlives a SIGKILL"

    def kill_group(self) -> None:
        """The same, with all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.kill()


class Zygote:
    """The process to fork from. May be used by any thread."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """Told when any process ends."""
        self._forked: dict[int, Forked] = {}
        self._starting: list[Callable[[int], None]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-u", __file__],
            env=our_environment() | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="zygote", daemon=True)
        self._reader.start()

    def start(
        self,
        entry: str,
        *arguments: Any,
        log: Path,
        errors: Path | None = None,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> Forked:
        """Has ``module:function`` called with these (plain) arguments in a new process; it says all in ``log``.

        With ``errors``, standard error goes there. ``env`` is added to our environment; ``folder`` is where it works.
        """
        for path in {log, errors or log}:
            path.touch()  # may be read before the process has come to write it
        request = {
            "entry": entry,
            "arguments": arguments,
            "log": str(log),
            "errors": str(errors or log),
            "env": our_environment() | dict(env or {}),
            "folder": str(folder or Path.cwd()),
        }
        found: list[Forked] = []
        with self.changed:
            self._starting.append(lambda pid: found.append(self._note(pid, log)))
            self._write(request)
            assert self.changed.wait_for(lambda: found, START_TIMEOUT_S), "the zygote does not answer"
        return found[0]

    def close(self) -> None:
        """Kills all that is left."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(10)
        self._reader.join()
        self._process.stdout.close()

    def _note(self, pid: int, log: Path) -> Forked:
        self._forked[pid] = Forked(pid, log, self.changed)
        return self._forked[pid]

    def _write(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, pid, status = json.loads(line)
            with self.changed:
                if kind == "started":
                    self._starting.pop(0)(pid)
                else:
                    self._forked.pop(pid).status = status
                self.changed.notify_all()


_making = threading.Lock()


def zygote() -> Zygote:
    """The one of this test run, also if several threads are the first to ask for it."""
    with _making:
        return _made()


@functools.cache
def _made() -> Zygote:
    one = Zygote()
    atexit.register(one.close)
    return one


# -- in the zygote -----------------------------------------------------------------------------------------------


def _serve(requests: int, replies: IO[bytes]) -> Callable[[], int]:
    """Forks until the requests end, and then does not return; in a child, returns what that child has to do."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children: set[int] = set()
    unread = b""

    def say(kind: str, pid: int, status: int = 0) -> None:
        with suppress(BrokenPipeError):
            replies.write(json.dumps([kind, pid, status]).encode() + b"\n")
            replies.flush()

    def reap() -> None:
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            children.discard(pid)
            say("ended", pid, os.waitstatus_to_exitcode(status))

    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            with suppress(BlockingIOError):
                os.read(woken, 4096)
            reap()
        if requests not in ready:
            continue
        received = os.read(requests, 65536)
        if not received:
            break
        *lines, unread = (unread + received).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (requests, woken, wake, replies.fileno()):
                    os.close(descriptor)
                return functools.partial(_do, **json.loads(line))
            children.add(pid)
            say("started", pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _do(entry: str, arguments: list[Any], log: str, errors: str, env: dict[str, str], folder: str) -> int:
    os.setsid()
    for descriptor, path in ((1, log), (2, errors)):
        sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(sink, descriptor)
        os.close(sink)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    module, _, function = entry.partition(":")
    return int(getattr(importlib.import_module(module), function)(*arguments))


def run_program(name: str, flags: list[str]) -> int:
    """What ``python -m name flags`` does, for a module with a ``main``; and ``python name flags``, for a file."""
    if name.endswith(".py"):
        os.execv(sys.executable, [sys.executable, name, *flags])  # whose tracebacks begin with itself
    program = importlib.import_module(name)
    sys.argv = [str(program.__file__), *flags]
    return int(program.main())


def _end(status: int) -> NoReturn:
    """Ends a child as Python does, except that nothing is taken apart: that would copy every page with an object."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _main() -> None:
    requests, replies = os.dup(0), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # only replies go where replies are read
    sys.modules["zygote"] = sys.modules[__name__]
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector then touches, and so copies, nothing of this in the children
    _end(_serve(requests, replies)())


if __name__ == "__main__":
    _main()
