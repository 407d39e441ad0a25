"""A slot in a separate process: torch's random state is global, so workers that train at once need one process each.

The two ends talk over a pipe, in messages of bytes as the embedded broker has them. A parcel is a line of text
(source, sender, name of the blob, number of its parts; tab-separated), then the body, then each part. The first line
begins with ``empty``, with the names of the workers that have no samples. An empty line ends an answer; a line that
begins with ``error`` is followed by the error's text and ends the conversation. A line that begins with ``log``
(level, logger) is followed by what was logged, one that begins with ``said`` by what was printed; both go among the
output lines of the process at the other end.
"""

import contextlib
import io
import logging
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import torch

from broker import Source
from broker.wire import Topology
from console import Arguments, FedmqError, configure_logging, errors
from learning import load_task
from learning.devices import deterministic
from simulation.secrecy import Secrecy
from simulation.sites import SimulatedSites
from simulation.slot import LocalSlot, Parcel
from simulation.tied import end_with

_LEAVE_S = 10.0
_ERROR = "error"
_LOG, _PRINTED = "log", "said"
_EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """Which workers of a simulation a slot has, and how to make them."""

    task: str
    partition: str
    queue: str
    inline_cap: int
    log_level: str
    sites: SimulatedSites
    task_args: Arguments = field(default_factory=Arguments)
    indices: Sequence[int]
    state: Path | None = None
    secrecy: Secrecy | None = None
    deterministic: bool = False
    """Whether it trains with PyTorch's deterministic algorithms."""
    is_live: bool = False
    """The other end draws on the terminal, so what is printed here goes there through the pipe."""

    def open(self) -> LocalSlot:
        """The slot, in the calling process."""
        sites = {
            self.sites.names[index]: load_task(
                self.task, self.sites.site(index, self.partition, self.task_args), own=True
            )
            for index in self.indices
        }
        return LocalSlot(
            sites,
            topology=Topology(self.queue),
            inline_cap=self.inline_cap,
            state=self.state,
            secrecy=self.secrecy,
        )


class SlotProcess:
    """A slot that trains in a separate process, inside a ``with``; it ends with this process, however that ends."""

    def __init__(self, plan: SlotPlan) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks, not its threads
        self._plan = plan
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._theirs, plan), name="fedmq slot")
        # no daemon, for these may not start the processes of a DataLoader; ``end_with`` and __exit__ see to its end
        self._is_stopping = False

    def __enter__(self) -> "SlotProcess":
        with _deaf_to_ctrl_c():
            self._process.start()
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join(_LEAVE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @property
    def num_workers(self) -> int:
        return len(self._plan.indices)

    @cached_property
    def without_samples(self) -> list[str]:
        """Waits for the process to have opened its slot."""
        names: list[str] = []
        with self._blamed():
            names.extend(_names_in(self._pipe))
        return names

    def offer(self, model: Parcel) -> None:
        with self._blamed():
            _send(self._pipe, model)

    def answer(self) -> list[Parcel]:
        answer: list[Parcel] = []
        with self._blamed():
            answer.extend(_received(self._pipe))
        return answer

    def stop(self) -> None:
        self._is_stopping = True
        self._process.terminate()

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """Turns the loss of the process into a FedmqError, unless it was told to stop."""
        try:
            yield
        except (EOFError, OSError) as error:
            if self._is_stopping:
                return
            self._process.join(_LEAVE_S)
            self._raise_its_error()
            code = self._process.exitcode or 0
            advice = "; fewer --jobs need less memory" if code == -signal.SIGKILL else ""
            raise FedmqError(
                f"a training process ended with {'signal' if code < 0 else 'exit code'} {abs(code)}{advice}"
            ) from error

    def _raise_its_error(self) -> None:
        """Raises the process's own error, if it sent one before it ended."""
        with contextlib.suppress(EOFError, OSError):
            while self._pipe.poll():
                list(_received(self._pipe))


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started within ignore the terminal's Ctrl-C; we end them ourselves."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, plan: SlotPlan) -> None:
    """The process: takes models and answers them until the other end of the pipe is closed.

    It notices a closed pipe only between trainings, but the end of the other process at once.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(parent.join)
    multiprocessing.set_start_method(None, force=True)  # the usual one again, for what a task starts: it is far faster
    output = _Output()
    configure_logging(plan.log_level, handler=_LogHandler(output))
    if plan.is_live:
        sys.stdout = sys.stderr = _Printed(output)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError), deterministic(is_wanted=plan.deterministic):
        try:
            slot = plan.open()
            pipe.send_bytes("\t".join([_EMPTY, *slot.without_samples]).encode())
            while True:
                (model,) = _received(pipe, at_most=1)
                slot.offer(model)
                for _ in range(slot.num_workers):
                    parcels = slot.answer()
                    output.send(pipe)
                    for parcel in parcels:
                        _send(pipe, parcel)
                    pipe.send_bytes(b"")
        except FedmqError as error:
            output.send(pipe)
            pipe.send_bytes(f"{_ERROR}\t{type(error).__name__}".encode())
            pipe.send_bytes(str(error).encode())


class _Output:
    """What was logged and printed here since the last send."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, str]] = []

    def add(self, line: str, text: str) -> None:
        self._texts.append((line, text))

    def send(self, pipe: Connection) -> None:
        texts, self._texts = self._texts, []
        for line, text in texts:
            pipe.send_bytes(line.encode())
            pipe.send_bytes(text.encode(errors="replace"))


class _LogHandler(logging.Handler):
    """The log, on its way to the other end."""

    def __init__(self, output: _Output) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # the other end adds the rest of the line
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.add(f"{_LOG}\t{record.levelno}\t{record.name}", self.format(record))


class _Printed(io.TextIOBase):
    """Standard output, on its way to the other end."""

    def __init__(self, output: _Output) -> None:
        self._output = output

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._output.add(_PRINTED, text)
        return len(text)


def _names_in(pipe: Connection) -> list[str]:
    """The workers without samples, which is the first thing that is said; raises the error that is said instead."""
    while True:
        kind, *rest = pipe.recv_bytes().decode().split("\t")
        if kind == _EMPTY:
            return rest
        _take_aside(kind, rest, pipe)


def _send(pipe: Connection, parcel: Parcel) -> None:
    pipe.send_bytes("\t".join([parcel.source, parcel.sender, parcel.blob, str(len(parcel.parts))]).encode())
    for piece in (parcel.body, *parcel.parts):
        pipe.send_bytes(piece)


def _received(pipe: Connection, *, at_most: int | None = None) -> Iterator[Parcel]:
    """The parcels up to the end of an answer, or the first ``at_most``."""
    num_received = 0
    while num_received != at_most and (line := pipe.recv_bytes().decode()):
        kind, *rest = line.split("\t")
        if _take_aside(kind, rest, pipe):
            continue
        sender, blob, num_parts = rest
        body = pipe.recv_bytes()
        yield Parcel(Source(kind), sender, body, blob, tuple(pipe.recv_bytes() for _ in range(int(num_parts))))
        num_received += 1


def _take_aside(kind: str, rest: Sequence[str], pipe: Connection) -> bool:
    """Takes what is no parcel: logs, prints or raises it; nobody need ask for the workers without samples."""
    if kind == _ERROR:
        raise _error(rest[0], pipe.recv_bytes().decode())
    if kind == _LOG:
        level, name = rest
        logging.getLogger(name).log(int(level), "%s", pipe.recv_bytes().decode())
    if kind == _PRINTED:
        print(pipe.recv_bytes().decode(), end="", file=sys.stderr)
    return kind in (_LOG, _PRINTED, _EMPTY)


def _error(name: str, text: str) -> FedmqError:
    kind = getattr(errors, name, FedmqError)
    return kind(text) if issubclass(kind, FedmqError) else FedmqError(text)
