"""Which runs can be shown: a state directory, or those in a folder."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.history import History, title_of
from console import StateError

_LEDGER = "ledger.sqlite"


@dataclass(frozen=True, slots=True)
class Run:
    """A state directory with its name, and when its ledger last changed (Unix time)."""

    name: str
    state: Path
    changed_at: float


def runs_in(folder: Path) -> dict[str, Run]:
    """The runs in ``folder`` by name, the newest first, including any whose first round has not begun."""
    found = [_run(path) for path in (folder, *_folders_in(folder)) if (path / _LEDGER).is_file()]
    return {run.name: run for run in sorted(found, key=lambda run: -run.changed_at)}


def _folders_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []


def _run(state: Path) -> Run:
    changes = [path.stat().st_mtime for path in state.glob(f"{_LEDGER}*")]
    return Run(state.resolve().name, state, max(changes, default=0.0))


def digest(run: Run) -> dict[str, Any]:
    """The run in one line: name, state, rounds, best. A run that cannot be read has a state that says so."""
    known = {"folder": run.name, "name": run.name, "changed_at": run.changed_at}
    try:
        with History(run.state) as history:
            facts, rounds, best = history.facts, history.num_closed(), history.best()
            summary = history.summary
            return known | {
                "name": title_of(history, facts),
                "state": "running or stopped" if summary is None else summary["stopped"],
                "rounds": rounds,
                "of": facts.get("settings", {}).get("rounds"),
                "best": None if best is None else {"metric": best[0], "round": best[1], "value": best[2]},
            }
    except (StateError, sqlite3.Error, OSError):
        return known | {"state": "not begun, or cannot be read", "rounds": 0, "of": None, "best": None}
