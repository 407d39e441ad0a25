"""The SQLite file below a ledger: facts of the run, transactions, and the epoch that fences off earlier aggregators."""

import json
import sqlite3
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aggregator.state.ledger.holding import Hold
from aggregator.state.ledger.journal import WAITS_S, journal_mode
from aggregator.state.ledger.schema import migrate
from console import LeadershipLost, StateError
from console.durable import transaction

_AS_GIVEN = (bool, int, str)
"""JSON gives them back as they were."""


class Database:
    """An open database, with its tables as this version has them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            mode = journal_mode(path.parent)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=WAITS_S[mode])
            self._db.execute(f"PRAGMA journal_mode = {mode}")
            self._db.execute("PRAGMA synchronous = FULL")
            self._measures_late = migrate(self._db, path)
            """Whether measurements stand in the row of the round after theirs."""
            self._epoch: int | None = None
            self._known: dict[Hashable, Any] = {}
            """What was asked since this aggregator last wrote anything."""
            self._facts: dict[str, Any] = {}
            """Those that were written or asked for by this aggregator."""
            self._written: dict[str, Any] = {}
            """Those that the open transaction has written, as far as they are read as they are given."""
            self._hold = Hold(path.parent)
        except sqlite3.DatabaseError as error:
            raise StateError(f"{path} cannot be used as a ledger: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and nothing at all once another aggregator has claimed the ledger (LeadershipLost)."""
        num_changes = self._db.total_changes
        self._written = {}
        try:
            with transaction(self._db, self._path):
                self._check_epoch()
                yield
            if self._epoch is not None:
                self._facts.update(self._written)
        finally:
            if self._db.total_changes != num_changes:
                self._known.clear()

    @property
    def _is_ours(self) -> bool:
        """Whether what is read now stays so: nobody else writes to the ledger unless it claims it, nor takes back."""
        return self._epoch is not None and not self._db.in_transaction

    def _asked(self, key: Hashable, answer: Callable[[], Any]) -> Any:
        """The answer to a question that is asked again and again; it stays the same until something is written."""
        if not self._is_ours:
            return answer()
        if key not in self._known:
            self._known[key] = answer()
        return self._known[key]

    def facts(self) -> dict[str, Any]:
        """What was recorded about the run; empty before the first round."""
        return {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM run")}

    def _fact(self, key: str) -> Any:
        """A single fact, for frequent look-ups; None if it was not recorded. It is not to be changed."""
        if key in self._facts:
            return self._facts[key]
        value = self._fact_now(key)
        if self._is_ours:
            self._facts[key] = value
        return value

    def _fact_now(self, key: str) -> Any:
        found = self._db.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def record(self, facts: Mapping[str, Any]) -> None:
        with self.transaction():
            self._set(facts)

    def _set(self, facts: Mapping[str, Any]) -> None:
        for key, value in facts.items():
            self._facts.pop(key, None)
            self._written.pop(key, None)
            if value is None or type(value) in _AS_GIVEN:
                self._written[key] = value
        self._db.executemany(
            "INSERT OR REPLACE INTO run VALUES (?, ?)",
            [(key, json.dumps(value)) for key, value in facts.items()],
        )

    def claim(self) -> int:
        """Fences off earlier aggregators; returns the epoch of this one."""
        with self.transaction():
            epoch = int(self._fact("epoch") or 0) + 1
            self._set({"epoch": epoch})
        self._epoch = epoch
        return epoch

    def check_leads(self) -> None:
        """LeadershipLost once another aggregator has claimed the ledger."""
        self._check_epoch()

    def _check_epoch(self) -> None:
        if self._epoch is not None and self._fact_now("epoch") != self._epoch:
            raise LeadershipLost(f"another aggregator took over {self._path}")

    def close(self) -> None:
        self._db.close()
        self._hold.close()
