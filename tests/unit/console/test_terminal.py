"""The terminal of a command: who has one, its lines and its view, what Ctrl-C says, and how it goes on."""

import contextlib
import logging
import os
import pty
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from broker.settings import WireSettings
from console.log_lines import IS_SHOWN, TEXT_INDENT
from console.settings import read_settings, without_password
from console.terminal import Terminal, command_line, is_foreground_terminal


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("amqp://user:secret@broker:5672/", "amqp://user:PASSWORD@broker:5672/"),
        ("--broker=amqps://u:p@ss:w/rd@h/v", "--broker=amqps://u:PASSWORD@h/v"),
        ("amqp://broker:5672/", "amqp://broker:5672/"),
        ("tasks/my_task.py:task", "tasks/my_task.py:task"),
        ("--token=0123456789abcdef", "--token=PASSWORD"),
    ],
)
def test_a_password_is_not_shown(given: str, shown: str) -> None:
    assert without_password(given) == shown


def test_a_command_is_told_as_it_was_typed_with_its_state_directory() -> None:
    argv = ["--task", "my task.py:task", "--broker", "amqp://u:secret@h/"]
    told = command_line("fl-aggregator", argv, state=Path("runs/a"))
    assert told == "fl-aggregator --task 'my task.py:task' --broker amqp://u:PASSWORD@h/ --state runs/a"
    argv = ["--token", "0123456789abcdef", "--name", "a"]
    assert command_line("fl-worker", argv) == "fl-worker --token PASSWORD --name a"
    for own in (["--state", "x"], ["--state=x"]):
        assert command_line("fl-aggregator", own, state=Path("x")) == f"fl-aggregator {' '.join(own)}"
    assert command_line("fl-worker", ["--name", "a"]) == "fl-worker --name a"


def test_a_command_is_told_by_its_path_where_its_name_alone_finds_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "fl-worker"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "--name", "a"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_line("fl-worker", None) == f"{script} --name a"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_line("fl-worker", None) == "fl-worker --name a"


def test_only_a_terminal_that_can_be_drawn_on_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with open(tmp_path / "log", "w") as file, os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", file)
        assert not is_foreground_terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert is_foreground_terminal()
        monkeypatch.setenv("TERM", "dumb")
        assert not is_foreground_terminal()
    os.close(ours)


def test_the_live_view_and_the_format_of_log_lines_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*flags: str) -> tuple[bool, str]:
        settings = read_settings(WireSettings, flags, prog="fl-test", description="", examples="")
        return settings.live, settings.log_format

    assert read() == (True, "text")
    assert read("--no-live", "--log-format", "json") == (False, "json")
    monkeypatch.setenv("FEDMQ_LIVE", "false")
    monkeypatch.setenv("FEDMQ_LOG_FORMAT", "json")
    assert read() == (False, "json")
    assert read("--live") == (True, "json")


class Screen:
    """The other end of a terminal that this process writes to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self._theirs = os.fdopen(theirs, "w")
        monkeypatch.setattr(sys, "stderr", self._theirs)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "1")

    def close(self) -> str:
        """All that was written."""
        self._theirs.close()
        written = b""
        with contextlib.suppress(OSError), os.fdopen(self._ours, "rb", buffering=0) as ours:
            while piece := ours.read(65536):
                written += piece
        return written.decode().replace("\r", "")


class FakeView:
    """A view of one line, which may fail."""

    is_over = False
    fails = False

    def finishing(self) -> None:
        pass

    def doing(self) -> str:
        return "committing round 7"

    def place(self) -> str:
        return "in round 7"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.fails:
            raise OSError("no rows")
        yield Text("the view")


@pytest.fixture
def process_as_it_was() -> Iterator[None]:
    """Signals are the command's; the test run wants them back."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture
def terminal_of(
    monkeypatch: pytest.MonkeyPatch, process_as_it_was: None
) -> Callable[[FakeView], tuple[Terminal, Screen]]:
    def make(view: FakeView) -> tuple[Terminal, Screen]:
        screen = Screen(monkeypatch)
        return Terminal(WireSettings(), view, prog="fl-test", argv=["--name", "a"]), screen

    return make


Make = Callable[[FakeView], tuple[Terminal, Screen]]


def test_log_lines_go_above_the_view_but_for_what_it_shows_itself(terminal_of: Make) -> None:
    terminal, screen = terminal_of(FakeView())
    with terminal:
        logging.info("joined \x1b[2J[red]", extra={"worker": "a"})
        logging.info("of one update", extra={IS_SHOWN: True})
        logging.warning("set aside", extra={IS_SHOWN: False})
        logging.info("%s", " ".join(["word"] * 14))
    shown = screen.close()
    assert f"INFO    {' '.join(['word'] * 12)}\n{' ' * TEXT_INDENT}word word\n" in shown
    assert shown.index("joined \\x1b[2J[red]\n") < shown.index("set aside\n") < shown.rindex("the view\n")
    assert "of one update" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_a_signal_is_answered_at_once_and_the_way_to_go_on_is_told_at_the_end(terminal_of: Make) -> None:
    terminal, screen = terminal_of(FakeView())
    stopped: list[bool] = []
    with terminal:
        terminal.on_signals(lambda: stopped.append(True))
        signal.raise_signal(signal.SIGTERM)
        assert stopped == [True]
    shown = screen.close()
    assert "finishing: committing round 7; send SIGTERM again to stop at once" in shown
    assert shown.endswith("stopped in round 7; to go on: fl-test --name a\n")


def test_a_view_that_fails_gives_the_terminal_back_and_the_command_goes_on(terminal_of: Make) -> None:
    view = FakeView()
    terminal, screen = terminal_of(view)
    with terminal:
        view.fails = True
        deadline = time.monotonic() + 30
        while not isinstance(logging.getLogger().handlers[0], logging.StreamHandler):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        logging.info("goes on")
    shown = screen.close()
    assert shown.index("the live view failed; the run goes on") < shown.index("goes on\n")
    assert "OSError: no rows" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_without_a_terminal_there_are_lines_and_no_orders_to_it(
    process_as_it_was: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with Terminal(WireSettings(), FakeView(), prog="fl-test", argv=[]) as terminal:
        terminal.on_signals(lambda: None)
        signal.raise_signal(signal.SIGINT)
        assert not terminal.is_live
    finishing, stopped = capsys.readouterr().err.splitlines()
    assert finishing[8:] == " INFO    finishing: committing round 7; press Ctrl-C again to stop at once"
    assert stopped[8:] == " INFO    stopped in round 7; to go on: fl-test"
