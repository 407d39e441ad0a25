"""The tables of the ledger, and how those of an earlier version become these."""

import sqlite3
from pathlib import Path

from console import StateError

FORMAT = 2
_FORMAT_WITHOUT_COMPANIONS = 1

_SCHEMA = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, opened_at REAL NOT NULL, closed_at REAL, closed_by TEXT, seconds REAL,
    num_folded INTEGER, num_late INTEGER, num_refused INTEGER, num_duplicate INTEGER, num_samples INTEGER,
    metrics TEXT, worker_metrics TEXT, model_sha256 TEXT, worker_medians TEXT
);
CREATE TABLE updates (
    id INTEGER PRIMARY KEY, received_at REAL NOT NULL, round INTEGER NOT NULL, verdict TEXT NOT NULL, reason TEXT,
    worker TEXT, instance TEXT, base_round INTEGER, staleness INTEGER, num_samples INTEGER, weight REAL,
    num_bytes INTEGER, train_s REAL, queue_s REAL, train_metrics TEXT, eval_metrics TEXT,
    num_messages INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX updates_by_round ON updates (round, verdict, worker);
CREATE TABLE attempts (message TEXT PRIMARY KEY, number INTEGER NOT NULL);
CREATE UNIQUE INDEX folded_once ON updates (base_round, worker) WHERE verdict = 'folded';
"""


_ADDED_COLUMNS = (
    ("updates", "num_messages", "INTEGER NOT NULL DEFAULT 1"),
    ("rounds", "worker_medians", "TEXT"),
    ("rounds", "settings", "TEXT"),
    ("rounds", "num_diverged", "INTEGER"),
    ("rounds", "num_not_finite", "TEXT"),
    ("updates", "norm", "REAL"),
    ("updates", "cosine", "REAL"),
    ("updates", "base_weight", "REAL"),
    ("updates", "figures", "TEXT"),
    ("rounds", "step_scalars", "TEXT"),
    ("rounds", "draws", "TEXT"),
    ("rounds", "num_chosen", "INTEGER"),
    ("rounds", "num_unselected", "INTEGER"),
    ("updates", "score", "REAL"),
    ("rounds", "num_outvoted", "INTEGER"),
    ("updates", "is_fresh", "INTEGER NOT NULL DEFAULT 0"),
    ("rounds", "sent_sha256", "TEXT"),
    ("rounds", "privacy", "TEXT"),
)
"""(table, column, type) of what ledgers of earlier versions lack. Those versions neither read nor write it."""

IS_OF_MEASURED = "num_not_finite"
"""A table of rounds without this column has what workers measured of a model in the row of the round after it."""

_KEPT = """
CREATE TABLE IF NOT EXISTS kept_bodies (
    base_round INTEGER, worker TEXT, file TEXT NOT NULL, blake3 TEXT NOT NULL, keys TEXT NOT NULL,
    PRIMARY KEY (base_round, worker)
)
"""

_SEEDS = """
CREATE TABLE IF NOT EXISTS seeds (
    base_round INTEGER, worker TEXT, masked_sha256 TEXT NOT NULL, seeds BLOB NOT NULL, PRIMARY KEY (base_round, worker)
)
"""

_RELEASES = """
CREATE TABLE IF NOT EXISTS releases (
    round INTEGER, sum_sha256 TEXT, noise REAL NOT NULL, clip REAL NOT NULL, charged_at REAL NOT NULL,
    PRIMARY KEY (round, sum_sha256)
)
"""

_COMMANDS = """
CREATE TABLE IF NOT EXISTS commands (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, received_at REAL NOT NULL, round INTEGER NOT NULL,
    sender TEXT, text TEXT NOT NULL, is_accepted INTEGER NOT NULL, result TEXT NOT NULL
)
"""

_BY_BASE = "CREATE INDEX IF NOT EXISTS updates_by_base ON updates (base_round, worker)"
WITH_SETTINGS = "rounds_with_settings"
"""An index of the rounds whose settings were new: the last of them may be long ago."""
_WITH_SETTINGS = f"CREATE INDEX IF NOT EXISTS {WITH_SETTINGS} ON rounds (round) WHERE settings IS NOT NULL"

COMPANIONS = "CREATE TABLE IF NOT EXISTS companions (round INTEGER, name TEXT, sha256 TEXT, PRIMARY KEY (round, name))"


def migrate(database: sqlite3.Connection, path: Path) -> bool:
    """Makes the tables that are missing, and adds what those of an earlier version lack.

    True if the ledger has rounds whose measurements stand in the row of the round after theirs.
    StateError if a newer version wrote it.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > FORMAT:
        raise StateError(f"{path} was written by a newer fedmq (format {version}); upgrade to go on")
    if version == 0:
        database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FORMAT_WITHOUT_COMPANIONS}; COMMIT;")
    for table in (_KEPT, _SEEDS, _RELEASES, _COMMANDS):
        database.execute(table)
    has_metrics_of_received_models = IS_OF_MEASURED not in columns_of(database, "rounds")
    for table, column, kind in _ADDED_COLUMNS:
        if column not in columns_of(database, table):
            database.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    for index in (_BY_BASE, _WITH_SETTINGS):
        database.execute(index)
    return bool(version) and has_metrics_of_received_models


def columns_of(database: sqlite3.Connection, table: str) -> set[str]:
    """The names of a table's columns."""
    return {str(row[1]) for row in database.execute(f"PRAGMA table_info({table})")}
