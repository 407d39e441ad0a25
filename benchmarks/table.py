"""The one table, for people and as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import FEDMQ, Row, Spread, ours_among

_SHORT_S = 0.1
_ROLES = ("aggregator", "worker", "broker")
_MEANING = """\
Values are medians, with the lowest and highest of n in brackets. × fedmq: how many times better fedmq does than this
row (seconds: theirs over ours; GB/s: ours over theirs). MB/s: the bytes of all models and updates of a round over its
seconds. CPU s and peak MB, for one aggregator / one worker / the broker: user and system seconds a round; the most that
the largest process of the role held, and in brackets the whole role at once, where that is more. Over idle: above what
a process of that role holds in rounds of a 40 KB model."""


def show(rows: Sequence[Row], *, command: str, facts: Mapping[str, Any], console: Console) -> None:
    """Prints the table, with the command that made it."""
    table = Table(title=command, title_justify="left", caption=_MEANING, caption_justify="left", pad_edge=False)
    for name in ("workload", "system"):
        table.add_column(name, overflow="fold")
    for name in ("value (lowest, highest)", "n", "× fedmq", "MB/s", "CPU s a round", "peak MB"):
        table.add_column(name, justify="right")
    table.add_column("note", overflow="fold")
    last = ""
    for row in rows:
        if last and row.workload != last:
            table.add_section()
        table.add_row(*_cells(row, ours_among(rows, row.workload), is_first=row.workload != last))
        last = row.workload
    console.print(table)
    console.print("  ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)


def _cells(row: Row, ours: Row | None, *, is_first: bool) -> list[str]:
    ratio = None if row.system == FEDMQ else row.ratio(ours)
    return [
        f"{row.workload}\n--only {row.workload.split()[0]}" if is_first else "",
        row.system,
        "–" if row.value is None else _spread(row.value, row.unit),
        "" if row.value is None else str(row.value.num),
        "" if ratio is None else number(ratio),
        "" if row.mb_per_s is None else number(row.mb_per_s),
        _by_role(row.usage.cpu_s),
        _by_role(row.usage.peak_mb, row.usage.tree_mb),
        row.note,
    ]


def _spread(value: Spread, unit: str) -> str:
    factor, unit = (1e3, "ms") if unit == "s" and value.median < _SHORT_S else (1.0, unit)
    median, lowest, highest = (number(factor * one) for one in (value.median, value.lowest, value.highest))
    return f"{median} {unit}" if value.num == 1 else f"{median} ({lowest}, {highest}) {unit}"


def _by_role(values: Mapping[str, float], trees: Mapping[str, float] | None = None) -> str:
    """One number a role, in a fixed order."""
    cells = []
    for role in _ROLES:
        if role not in values:
            continue
        tree = (trees or {}).get(role, 0.0) if role == "aggregator" else 0.0
        several = f" ({number(tree)})" if tree > 1.1 * values[role] else ""
        cells.append(f"{number(values[role])}{several}")
    return " / ".join(cells)


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def write_json(path: Path, rows: Sequence[Row], *, command: str, facts: Mapping[str, Any]) -> None:
    found = [row.as_json(ours_among(rows, row.workload)) for row in rows]
    path.write_text(json.dumps({"command": command, **facts, "rows": found}, indent=2) + "\n", encoding="utf-8")
