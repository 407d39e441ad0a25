"""Log records as lines for people, and as JSON for machines."""

import json
import logging
import sys
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import pytest

from console.command import configure_logging, exit_code_of
from console.errors import ExitCode, StateError
from console.log_lines import IS_SHOWN, LogFormat, formatter_of


class Verdict(StrEnum):
    LATE = "late"


def line(log_format: LogFormat, message: str, *arguments: object, exc_info: bool = False, **fields: object) -> str:
    error = sys.exc_info() if exc_info else None
    record = logging.LogRecord("aggregator.service", logging.WARNING, __file__, 1, message, arguments, error)
    record.__dict__.update(fields)
    return formatter_of(log_format).format(record)


def test_json_has_time_level_logger_message_and_the_fields_of_the_call() -> None:
    told = json.loads(
        line(
            "json", "round %d ↻", 7, round=7, verdict=Verdict.LATE, metrics={"loss": 0.5}, path=Path("x"), is_shown=True
        )
    )
    time = datetime.fromisoformat(told.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert told == {
        "level": "WARNING",
        "logger": "aggregator.service",
        "message": "round 7 ↻",
        "round": 7,
        "verdict": "late",
        "metrics": {"loss": 0.5},
        "path": "x",
    }
    assert IS_SHOWN not in told


def test_a_traceback_is_a_field_of_the_one_line() -> None:
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError:
        text = line("json", "unexpected", exc_info=True)
    assert len(text.splitlines()) == 1
    assert "ZeroDivisionError: oops" in json.loads(text)["exception"]


def test_a_text_line_is_aligned_and_gives_the_terminal_no_orders() -> None:
    assert line("text", "update from '%s'", "x\x1b[2J\nfake")[8:] == " WARNING update from 'x\\x1b[2J\\nfake'"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_error_for_a_person_is_one_line_in_the_format_of_the_log(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> ExitCode:
        configure_logging("INFO", log_format=log_format)
        raise StateError("the directory is in use")

    assert exit_code_of(command, prog="fl-test") == ExitCode.STATE
    (told,) = capsys.readouterr().err.splitlines()
    if log_format == "text":
        assert told == "fl-test: the directory is in use"
    else:
        fields = json.loads(told)
        assert (fields["message"], fields["logger"], fields["exit_code"]) == ("the directory is in use", "fl-test", 6)
