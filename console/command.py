"""What all commands share: log lines, and an exit code with one clear line instead of a traceback."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from console.errors import ExitCode, FedmqError
from console.log_lines import LogFormat, formatter_of, is_json


def configure_logging(level: str, *, log_format: LogFormat = "text", handler: logging.Handler | None = None) -> None:
    """One event a line, on standard error, or wherever ``handler`` brings it."""
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(formatter_of(log_format))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # its errors reach us as exceptions


def log_unless_configured(level: str, *, log_format: LogFormat = "text") -> None:
    """``configure_logging``, in a program of somebody else's: if that logs already, our lines go where its own go."""
    if not logging.getLogger().handlers:
        configure_logging(level, log_format=log_format)


@contextlib.contextmanager
def signals_as_before() -> Iterator[None]:
    """What ``on_signals`` sets inside the ``with`` is undone after it."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if signal.getsignal(signum) is not handler:
                signal.signal(signum, handler)


def on_signals(
    stop: Callable[[], None],
    *,
    on_signal: Callable[[int], None] = lambda number: None,
    before_end: Callable[[], None] = lambda: None,
) -> None:
    """Ctrl-C or SIGTERM once finishes cleanly; twice ends at once. ``on_signal`` gets the number of the first.

    A process forked from this one, such as a DataLoader's, inherits the handlers: it leaves Ctrl-C to this one and ends
    by SIGTERM.
    """
    own = os.getpid()

    def is_inherited(number: int) -> bool:
        if os.getpid() == own:
            return False
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        return True

    def handle(number: int, frame: FrameType | None) -> None:
        if is_inherited(number):
            return
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, end_at_once)
        on_signal(number)
        stop()

    def end_at_once(number: int, frame: FrameType | None) -> None:
        if is_inherited(number):
            return
        before_end()
        os._exit(ExitCode.INTERRUPTED)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, handle)


def exit_code_of(command: Callable[[], ExitCode], *, prog: str) -> int:
    """Runs a command. An error meant for a person becomes one line and its exit code."""
    try:
        return command()
    except FedmqError as error:
        if is_json():
            logging.getLogger(prog).error("%s", error, extra={"exit_code": int(error.exit_code)})
        else:
            print(f"{prog}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception:
        logging.getLogger(prog).exception("unexpected error")
        return ExitCode.FAILED
