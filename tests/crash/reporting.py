"""The table of crash points at the end of a test run."""

import pytest
from crash.cells import table
from crash.points import SIZES

TITLES = {
    "crash once": "killed once, at each point, and the same command again",
    "crash with others": "killed once with a step that remembers (fedadam), with updates kept by themselves (spool)",
    "crash in turn": "killed again while it recovers, and several times in a row",
    "crash of partials": "killed with a partial aggregator between workers and root",
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, title in TITLES.items():
        results = {
            cell: text
            for outcome, text in (("failed", "FAILED"), ("passed", "ok"))
            for report in terminalreporter.getreports(outcome)
            for found, cell in getattr(report, "user_properties", [])
            if found == name
        }
        if results:
            rows = list(dict.fromkeys(row for row, _ in results))
            terminalreporter.section(title)
            columns = tuple(dict.fromkeys(column for _, column in results)) if name == "crash with others" else SIZES
            for line in table(results, rows, columns):
                terminalreporter.write_line(line)
