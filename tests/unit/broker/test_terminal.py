"""Which command goes on, and who sees a live view."""

import os
import pty
import sys
from pathlib import Path

import pytest

from broker.settings import WireSettings, read_settings, without_password
from broker.terminal import command_line, is_foreground_terminal


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("amqp://user:secret@broker:5672/", "amqp://user:PASSWORD@broker:5672/"),
        ("--broker=amqps://u:p@ss:w/rd@h/v", "--broker=amqps://u:PASSWORD@h/v"),
        ("amqp://broker:5672/", "amqp://broker:5672/"),
        ("tasks/my_task.py:task", "tasks/my_task.py:task"),
    ],
)
def test_a_password_is_not_shown(given: str, shown: str) -> None:
    assert without_password(given) == shown


def test_a_command_is_told_as_it_was_typed_with_its_state_directory() -> None:
    argv = ["--task", "my task.py:task", "--broker", "amqp://u:secret@h/"]
    told = command_line("fl-aggregator", argv, state=Path("runs/a"))
    assert told == "fl-aggregator --task 'my task.py:task' --broker amqp://u:PASSWORD@h/ --state runs/a"
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
