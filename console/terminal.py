"""The terminal that a command runs in: its log lines, a live view below them, and what Ctrl-C does.

In a terminal the lines go through the thread that draws the view, so that neither tears the other, and a terminal that
is stopped (Ctrl-S) stops nothing else. Elsewhere there is no view, and lines go to standard error as they come.
"""

import contextlib
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from console.command import configure_logging, on_signals
from console.log_lines import IS_SHOWN, TEXT_INDENT, formatter_of
from console.settings import ProgressSettings, without_password

log = logging.getLogger(__name__)

_REFRESH_S = 0.25
_MAX_LINES = 1000
"""Lines that wait for the terminal; nobody reads more than that in a quarter of a second."""
_STUCK_S = 2.0
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class View(Protocol):
    """What a command shows while it runs. Rich asks for it from the terminal's thread."""

    @property
    def is_over(self) -> bool:
        """Whether the command did what it was started for."""

    def finishing(self) -> None:
        """The command was told to stop. Called from a signal handler."""

    def place(self) -> str:
        """How far the command is, such as ``in round 7``; empty if it has not begun. Called from a signal handler."""

    def doing(self) -> str:
        """What is still to be done when the command is told to stop. Called from a signal handler."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult: ...


class Terminal:
    """Inside a ``with``, the view is live if this is a terminal and the settings want it.

    ``argv`` are the command's arguments, by default the process's own.
    """

    def __init__(
        self,
        settings: ProgressSettings,
        view: View,
        *,
        prog: str,
        argv: Sequence[str] | None = None,
        state: Path | None = None,
        level: str | None = None,
    ) -> None:
        self._view = view
        self._go_on = command_line(prog, argv, state=state)
        self._formatter = formatter_of(settings.log_format)
        self._screen: _Screen | None = None
        self._is_told_to_stop = False
        level = level or settings.log_level
        if settings.live and settings.log_format == "text" and is_foreground_terminal():
            self._screen = _Screen(view, self._formatter)
            configure_logging(level, handler=self._screen.handler)
        else:
            configure_logging(level, log_format=settings.log_format)

    @property
    def is_live(self) -> bool:
        return self._screen is not None

    def __enter__(self) -> "Terminal":
        if self._screen is not None:
            self._screen.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._screen is not None:
            self._screen.stop()
            configure_logging(logging.getLevelName(logging.getLogger().level))
        if self._is_told_to_stop and not self._view.is_over:
            self._print(self._farewell("stopped"), command=self._go_on)

    def on_signals(self, stop: Callable[[], None]) -> None:
        """Ctrl-C or SIGTERM once finishes cleanly, and says at once what that is; twice ends at once."""
        on_signals(stop, on_signal=self._begin_finishing, before_end=self._leave)

    def _begin_finishing(self, number: int) -> None:
        self._is_told_to_stop = True
        again = "press Ctrl-C" if number == signal.SIGINT else "send SIGTERM"
        words = f"finishing: {self._view.doing()}; {again} again to stop at once"
        self._view.finishing()
        if self._screen is None:
            self._print(words)
        else:
            self._screen.print_line(words)

    def _leave(self) -> None:
        if self._screen is not None:
            self._screen.abandon()
            _write(f"{self._farewell('stopped at once')}\n")

    def _farewell(self, what: str) -> str:
        return f"{' '.join(filter(None, (what, self._view.place())))}; to go on: {self._go_on}"

    def _print(self, words: str, **fields: object) -> None:
        """Prints at any log level, and in a signal handler too, which may have interrupted a log line."""
        record = logging.LogRecord(__name__, logging.INFO, __file__, 0, words, None, None)
        record.__dict__.update(fields)
        _write(f"{self._formatter.format(record)}\n" if self._screen is None else f"{words}\n")


class _Screen:
    """The live part of the terminal, and the thread that draws it."""

    def __init__(self, view: View, formatter: logging.Formatter) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._frame = _Frame(view)
        self._live = Live(
            self._frame,
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            vertical_overflow="crop",
        )
        self._lines: deque[tuple[Text, bool]] = deque(maxlen=_MAX_LINES)
        self.handler = _Lines(self._lines, formatter)
        self._stopping = threading.Event()
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._run, name="terminal", daemon=True)

    def start(self) -> None:
        self._live.start()
        self._thread.start()

    def stop(self) -> None:
        """Draws the view a last time, and gives the terminal back."""
        self._stopping.set()
        self._thread.join(_STUCK_S)

    def print_line(self, words: str) -> None:
        """A line above the view. Safe in a signal handler."""
        self._lines.append((Text(words, style="bold yellow"), False))

    def abandon(self) -> None:
        """Gives the terminal back at once, in a signal handler."""
        self._is_abandoned = True
        _write("\x1b[?25h\n")  # the cursor

    def _run(self) -> None:
        try:
            while not self._stopping.wait(_REFRESH_S):
                self._draw()
            self._frame.is_last = True
            self._draw()
        except Exception:
            self._stopping.set()
            self.handler.is_over = True
            with contextlib.suppress(Exception):
                self._live.stop()
            configure_logging(logging.getLevelName(logging.getLogger().level))
            log.exception("the live view failed; the run goes on")
        else:
            self._live.stop()

    def _draw(self) -> None:
        if self._is_abandoned:
            return
        self._frame.mind_resize(self._console)
        lines = [self._fitting(*self._lines.popleft()) for _ in range(len(self._lines))]
        if lines:
            self._console.print(Text("\n").join(lines), soft_wrap=True)  # with the frame below it
        else:
            self._live.refresh()

    def _fitting(self, line: Text, is_log: bool) -> Text:
        """A log line that is too long continues below its message, and not below its time."""
        if not is_log or line.cell_len <= self._console.width or "\n" in line.plain:
            return line
        head, message = line.divide([TEXT_INDENT])
        parts = message.wrap(self._console, max(TEXT_INDENT, self._console.width - TEXT_INDENT))
        for part in parts:
            part.rstrip()
        return head.append_text(Text("\n" + " " * TEXT_INDENT).join(parts))


class _Frame:
    """The view as last drawn, with what is needed to find where it begins after a resize."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.is_last = False
        self._widths: list[int] = []
        self._console_width = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._view, options.update(height=None), pad=False)
        lines = lines[: max(1, console.height - 2)]
        lines += [] if self.is_last else [[]]  # where the terminal shows ^C
        self._widths, self._console_width = [Segment.get_line_length(line) for line in lines], console.width
        for line in lines:
            yield from line
            yield Segment.line()

    def mind_resize(self, console: Console) -> None:
        """Removes a frame whose lines the terminal broke when it became narrower.

        Rich goes up by as many lines as it has drawn; so the cursor is left that many lines below the new beginning.
        """
        width = console.width
        if not self._widths or width == self._console_width:
            return
        self._console_width = width
        num_rows = sum(max(1, -(-line // width)) for line in self._widths)
        up = min(num_rows, console.height) - 1
        codes: list[Any] = [ControlType.CARRIAGE_RETURN]
        codes += [(ControlType.CURSOR_UP, up)] if up else []
        console.control(Control(*codes), Control((ControlType.ERASE_IN_LINE, 0)))
        console.file.write("\x1b[J" + "\n" * (len(self._widths) - 1))
        console.file.flush()


class _Lines(logging.Handler):
    """Log lines on their way to the terminal's thread."""

    def __init__(self, lines: deque[tuple[Text, bool]], formatter: logging.Formatter) -> None:
        super().__init__()
        self._queue = lines
        self.is_over = False
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.DEBUG and getattr(record, IS_SHOWN, False):
            return
        self._queue.append((Text(self.format(record), style=_STYLES.get(record.levelno, "")), True))


def is_foreground_terminal() -> bool:
    """Whether standard error is a terminal that can be drawn on, and in which this process is in the foreground."""
    try:
        number = sys.stderr.fileno()
        if not os.isatty(number) or os.environ.get("TERM") in (None, "", "dumb", "unknown"):
            return False
    except (OSError, ValueError):
        return False
    try:
        return os.tcgetpgrp(number) == os.getpgrp()
    except OSError:  # it is not our controlling terminal, so nobody else is on it
        return True


def command_line(prog: str, argv: Sequence[str] | None, *, state: Path | None = None) -> str:
    """What a person types to run this command again, with its state directory and without passwords."""
    words = [*(_started_as(prog) if argv is None else [prog]), *(sys.argv[1:] if argv is None else argv)]
    if state is not None and not any(word == "--state" or word.startswith("--state=") for word in words):
        at = words.index("--") if "--" in words else len(words)  # what follows is a script's
        words[at:at] = ["--state", str(state)]
    flagged = pairwise(["", *words])
    return shlex.join("PASSWORD" if flag == "--token" else without_password(word) for flag, word in flagged)


def _started_as(prog: str) -> list[str]:
    path = sys.argv[0]
    if Path(path).name != prog:  # python -m package.cli
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        return [sys.orig_argv[0], "-m", spec.name] if spec else [sys.orig_argv[0], path]
    found = shutil.which(prog)
    return [prog] if found is not None and Path(found).resolve() == Path(path).resolve() else [path]


def _write(text: str) -> None:
    """To standard error, past all buffers."""
    try:
        os.write(sys.stderr.fileno(), text.encode())
    except (OSError, ValueError):  # standard error of a test
        print(text, end="", file=sys.stderr)
