"""The runs of this machine as ``fl-run list`` shows them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aggregator.history import digest, runs_in
from console import StateError, printable

_HEAD = ("run", "state", "rounds", "best", "")


def digests(folder: Path) -> list[dict[str, Any]]:
    """Each run in a folder, or the one that it is, the last to change first. A StateError if there is none."""
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise StateError(f"--state {folder}: {error.strerror}") from error
    found = runs_in(folder).values()
    if not found:
        raise StateError(f"--state {folder}: no run has begun there, nor in a folder in it")
    return [digest(run) for run in found]


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines with aligned columns, a head first."""
    rows = [_HEAD, *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(run: Mapping[str, Any]) -> tuple[str, ...]:
    folder = "" if run["folder"] == run["name"] else f" (in {run['folder']})"
    rounds = f"{run['rounds']} of {run['of']}" if run["of"] else str(run["rounds"])
    cells = (f"{run['name']}{folder}", run["state"], rounds, _best(run["best"]), run["reason"] or "")
    return tuple(printable(cell) for cell in cells)


def _best(best: Mapping[str, Any] | None) -> str:
    return "" if best is None else f"{best['named']} {best['value']:.4g}, round {best['round']}"
