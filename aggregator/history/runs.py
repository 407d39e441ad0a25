"""Which runs there are: a state directory, or those in a folder; and each of them in one line."""

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.history.history import LEDGER, History
from aggregator.history.overview import title_of
from aggregator.history.portable import without_folder
from aggregator.state import BestBy, is_held, named
from console import StateError


@dataclass(frozen=True, slots=True)
class Run:
    """A state directory with its name, and when its ledger last changed (Unix time)."""

    name: str
    state: Path
    changed_at: float


def runs_in(folder: Path) -> dict[str, Run]:
    """The runs in ``folder`` by name, the newest first, including any whose first round has not begun."""
    found = [_run(path) for path in (folder, *_folders_in(folder)) if _has_ledger(path)]
    return {run.name: run for run in sorted(found, key=lambda run: -run.changed_at)}


def _has_ledger(folder: Path) -> bool:
    """False also of a folder that is not ours to look into, such as a volume's ``lost+found``."""
    try:
        return (folder / LEDGER).is_file()
    except OSError:
        return False


def _folders_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []


def _run(state: Path) -> Run:
    return Run(state.resolve().name, state, _changed_at(state / LEDGER))


def _changed_at(ledger: Path) -> float:
    changed_at = ledger.stat().st_mtime
    with suppress(OSError):
        log = ledger.with_name(f"{ledger.name}-wal").stat()
        if log.st_size:  # readers make an empty one, and write to -shm
            changed_at = max(changed_at, log.st_mtime)
    return changed_at


def digest(run: Run) -> dict[str, Any]:
    """The run in one line: its names, ``state``, ``rounds`` done ``of`` those asked for, ``best``, ``reason``.

    ``state`` is running, finished, stopped or unknown: stopped if no aggregator of this machine has it open, unknown if
    that cannot be told or the run not be read. ``reason`` says why it ended or cannot be read; None: neither.
    """
    known = {"folder": run.name, "name": run.name, "changed_at": run.changed_at}
    try:
        with History(run.state) as history:
            facts, rounds, best = history.facts, history.num_closed(), history.best()
            summary = history.summary
            return known | {
                "name": title_of(history, facts),
                "state": _state(run.state) if summary is None else "finished",
                "rounds": rounds,
                "of": facts.get("settings", {}).get("rounds"),
                "best": None if best is None else _best(*best, history.aim.best_by),
                "reason": None if summary is None else summary["stopped"],
            }
    except (StateError, sqlite3.Error, OSError, ValueError) as error:
        reason = without_folder(str(error), run.state)
        return known | {"state": "unknown", "rounds": 0, "of": None, "best": None, "reason": reason}


def _best(metric: str, number: int, value: float, by: BestBy) -> dict[str, Any]:
    return {"metric": metric, "named": named(metric, by), "round": number, "value": value}


def _state(folder: Path) -> str:
    return {True: "running", False: "stopped", None: "unknown"}[is_held(folder)]
