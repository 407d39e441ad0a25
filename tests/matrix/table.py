"""The matrix as people read it."""

from collections.abc import Sequence

from matrix.cells import Cell
from matrix.disturbances import DISTURBANCES
from rich.table import Table


def table_of(rows: Sequence[Sequence[Cell]]) -> Table:
    """One line an algorithm: "= N" for N runs with one digest, "–" where the two do not go together.

    Nothing stands where they were not run.
    """
    columns = [each.name for each in DISTURBANCES if any(cell.disturbance == each.name for row in rows for cell in row)]
    table = Table("algorithm", *columns, "digest")
    for row in rows:
        texts = {cell.disturbance: f"[red]{cell}[/red]" if cell.differing else str(cell) for cell in row}
        table.add_row(row[0].algorithm, *(texts.get(name, "") for name in columns), row[0].digest[:12])
    return table


def legend(rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Why some do not go together, each reason once; and each run that ended otherwise."""
    cells = [cell for row in rows for cell in row]
    by_reason: dict[str, list[str]] = {}
    for cell in cells:
        if cell.refused:
            by_reason.setdefault(cell.refused, []).append(f"{cell.algorithm} x {cell.disturbance}")
    lines = [f"– {reason}  ({', '.join(pairs)})" for reason, pairs in by_reason.items()]
    lines += [f"{cell.algorithm} x {cell.disturbance}: {told}" for cell in cells for told in cell.differing]
    num_runs = sum(cell.num_runs for cell in cells)
    return [*lines, f"{num_runs} runs, of which {sum(len(cell.differing) for cell in cells)} differ"]
