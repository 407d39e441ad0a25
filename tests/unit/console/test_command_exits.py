"""Errors become one line and a named exit code."""

import logging
import re

import pytest

from console import errors
from console.command import exit_code_of
from console.errors import ExitCode, FedmqError


def leave(error: BaseException) -> int:
    def command() -> ExitCode:
        raise error

    return exit_code_of(command, prog="fl-test")


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FedmqError)]
)
def test_every_error_of_ours_is_one_line_and_its_exit_code(
    kind: type[FedmqError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(kind("what happened")) == kind.exit_code != 0
    assert capsys.readouterr().err == "fl-test: what happened\n"


def test_an_unexpected_error_is_a_failure_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert leave(ZeroDivisionError("oops")) == ExitCode.FAILED
    assert "ZeroDivisionError: oops" in caplog.text


def test_an_interrupt_and_a_success_have_their_codes() -> None:
    assert leave(KeyboardInterrupt()) == ExitCode.INTERRUPTED
    assert exit_code_of(lambda: ExitCode.OK, prog="fl-test") == 0


def test_the_tree_on_top_of_the_errors_names_every_error_with_its_code() -> None:
    told = dict(re.findall(r"(\w+) +(\d) +[A-Z]+", errors.__doc__ or ""))
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, FedmqError):
            assert name in (errors.__doc__ or "")
            if name in told:
                assert int(told[name]) == kind.exit_code
