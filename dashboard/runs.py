"""Which runs can be shown: a state directory, or those in a folder."""

from dataclasses import dataclass
from pathlib import Path

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
