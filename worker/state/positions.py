"""The newest head that a worker has accepted, on disk: a head from before it is a replay, also after a restart.

Heads of one run are ordered by their position, and runs by when they began. Only heads with a verified signature are
remembered: a forged one could otherwise lock genuine heads out.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from broker.wire import ModelHead
from console import StateError
from console.durable import replace_file


@dataclass(frozen=True, slots=True)
class _Accepted:
    run_id: str
    began_at: float
    epoch: int
    round: int
    is_finished: bool
    draw: int = 0

    @classmethod
    def of(cls, head: ModelHead) -> "_Accepted":
        return cls(head.run_id, head.began_at or 0.0, *head.position)

    @property
    def position(self) -> tuple[int, int, bool, int]:
        return (self.epoch, self.round, self.is_finished, self.draw)

    @property
    def fields(self) -> dict[str, Any]:
        """As a fedmq before draws reads it, if there was none."""
        return {name: value for name, value in asdict(self).items() if name != "draw" or value}


class Positions:
    """The newest head accepted, kept in ``path``; without one, for as long as the process lives."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._newest = None if path is None else _read(path)

    def replayed(self, head: ModelHead) -> str | None:
        """Why this head is from before the newest one accepted; None if it is not."""
        newest, given = self._newest, _Accepted.of(head)
        if newest is None:
            return None
        if given.run_id != newest.run_id:
            if given.began_at < newest.began_at:
                return f"run {given.run_id} began before run {newest.run_id}, which this worker has seen"
            return None
        if given.position < newest.position:
            return (
                f"epoch {given.epoch}, round {given.round} of run {given.run_id} comes before"
                f" epoch {newest.epoch}, round {newest.round}, which this worker has seen"
            )
        return None

    def accept(self, head: ModelHead) -> None:
        """Remembers that this head was accepted. A StateError if that cannot be written."""
        accepted = _Accepted.of(head)
        if accepted == self._newest:
            return
        self._newest = accepted
        if self._path is not None:
            text = json.dumps(accepted.fields)
            replace_file(self._path, lambda new: new.write_text(text, encoding="utf-8"))


def _read(path: Path) -> _Accepted | None:
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
        return _Accepted(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise StateError(
            f"{path} cannot be read: {error}; it says which models this worker has seen: restore it, or remove it and"
            " check with the aggregator that the next model is the newest"
        ) from error
