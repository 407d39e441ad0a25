"""What all commands share: log lines, and an exit code with one clear line instead of a traceback."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from broker.errors import ExitCode, FedmqError

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def configure_logging(level: str) -> None:
    """One event a line, on standard error."""
    logging.basicConfig(level=level, format=_FORMAT, datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # its errors reach us as exceptions


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
