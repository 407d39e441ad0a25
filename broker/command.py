"""What all commands share: log lines, and an exit code with one clear line instead of a traceback."""

import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from broker.errors import ExitCode, FedmqError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_TWO_PARTS_BYTES = 2**24
_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def configure_logging(level: str) -> None:
    """One event a line, on standard error."""
    logging.basicConfig(level=level, format=_FORMAT, datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # its errors reach us as exceptions


def return_freed_memory() -> None:
    """Has glibc give freed models back to the system, and keep a part or two; other C libraries do as they do.

    By default it learns from the first freed tensor to keep blocks of any size, for each thread apart, and memory
    grows by whole models. Giving all back costs more than it saves: a page that is new is cleared first, and of the
    parts of messages each is a new one.
    """
    with contextlib.suppress(OSError, AttributeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(_M_MMAP_THRESHOLD, _TWO_PARTS_BYTES)
        glibc.mallopt(_M_TRIM_THRESHOLD, _TWO_PARTS_BYTES)
        glibc.mallopt(_M_ARENA_MAX, 1)


def on_signals(stop: Callable[[], None]) -> None:
    """Ctrl-C or SIGTERM once finishes cleanly; twice ends at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _end_at_once)
        stop()

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, handle)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(ExitCode.INTERRUPTED)


def exit_code_of(command: Callable[[], ExitCode], *, prog: str) -> int:
    """Runs a command. An error meant for a person becomes one line and its exit code."""
    try:
        return command()
    except FedmqError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception:
        logging.getLogger(prog).exception("unexpected error")
        return ExitCode.FAILED
