"""The ledger as CSV, row by row, for spreadsheets and for other programs."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from aggregator.history import MEASURED, History

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_AT_A_TIME = 500


def rounds_csv(history: History) -> Iterator[str]:
    """One line a closed round; each metric has its own column."""
    rows = history.rounds()
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _lines(names, iter(rows))


def updates_csv(history: History) -> Iterator[str]:
    """One line an update, as the ledger has it; each metric has its own column, such as ``eval.accuracy``."""
    names = history.update_columns()
    return _lines(names, (_flat(row) for row in history.updates())) if names else iter(())


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    measured = {f"{prefix}{name}": value for prefix, key in MEASURED.items() for name, value in row[key].items()}
    return {name: value for name, value in row.items() if name not in MEASURED.values()} | measured


def _lines(names: list[str], rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(names)
    for number, row in enumerate(rows):
        writer.writerow([_cell(row.get(name)) for name in names])
        if number % _AT_A_TIME == 0:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def _cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe, since workers choose their own names."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
