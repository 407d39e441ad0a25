"""The keeper's ledger: one SQLite file that says which sums of masks were given, for which updates, with what noise.

``releases``  one row a round of a run that was answered, never deleted: the set, and what it cost
``used``      the workers whose seed for a round is in such a set; each is in one set, once
``runs``      the round in which a run was first heard of
``state``     which secret all noise follows from, by its fingerprint

What is in it has happened as far as privacy is concerned, even if the answer never left: the row is on the disk before
there is noise, or a sum. Two processes with one ledger cannot answer for two sets, since the rows exclude each other.

A ledger that is lost cannot be made anew: what was given is not known any more. See docs/privacy.md.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from console import StateError
from console.durable import transaction
from privacy import fingerprint_of, noise_secret

FORMAT = 2
_WITHOUT_ADAPTIVE_CLIPS = 1
LEDGER, NOISE_SECRET = "keeper.db", "noise.secret"
_COPY_BACK = (
    "without it, no sum that was noised can be given again;"
    " copy it back, or go on as docs/privacy.md says of a lost ledger"
)
_SCHEMA = """
CREATE TABLE releases (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, set_sha256 TEXT NOT NULL, seeds_sha256 TEXT NOT NULL,
    num_updates INTEGER NOT NULL, num_sites INTEGER NOT NULL, noise REAL, clip REAL, step REAL, within_at INTEGER,
    charged_at REAL NOT NULL, PRIMARY KEY (run_id, round)
) WITHOUT ROWID;
CREATE TABLE used (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, worker TEXT NOT NULL, PRIMARY KEY (run_id, round, worker)
) WITHOUT ROWID;
CREATE TABLE runs (run_id TEXT PRIMARY KEY, first_round INTEGER NOT NULL, heard_of_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one answer was for, and what it costs: a row of ``releases``."""

    run_id: str
    round: int
    set_sha256: str
    """Of the set of updates whose masks were summed up."""
    seeds_sha256: str
    """Of the very messages with their seeds."""
    num_updates: int
    num_sites: int
    noise: float | None = None
    """The noise multiplier: the standard deviation of the noise, in multiples of ``clip``; None: there is no noise."""
    clip: float | None = None
    """The norm that each of the updates was clipped to; None: they were not."""
    step: float | None = None
    """One unit of the integers of the model's tensors."""
    within_at: int | None = None
    """Which integer of 8 bytes says whether an update was within its adaptive clip; None: the clip is fixed."""
    charged_at: float
    """Unix time in seconds."""


_COLUMNS = tuple(Charge.__slots__)


class Ledger:
    """An open ledger in this folder, which is made if it is not there. What is written is on the disk on return."""

    def __init__(self, folder: Path) -> None:
        """A StateError if it is not usable, or if the secret of its noise is another."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path = folder / LEDGER
            self._db = sqlite3.connect(self._path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._prepare()
            self.noise_secret = self._noise_secret(folder / NOISE_SECRET)
            """32 bytes from which all noise follows."""
        except (OSError, sqlite3.Error) as error:
            raise StateError(f"{folder} cannot be used as a keeper's state: {error}") from error

    def _prepare(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise StateError(f"{self._path} was written by a newer fedmq (format {version}); upgrade to go on")
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        if version == _WITHOUT_ADAPTIVE_CLIPS:
            column = "ALTER TABLE releases ADD COLUMN within_at INTEGER"
            self._db.executescript(f"BEGIN; {column}; PRAGMA user_version = {FORMAT}; COMMIT;")

    def _noise_secret(self, path: Path) -> bytes:
        """The one that this ledger began with: with another, a sum would be noised a second time, in another way."""
        row = self._db.execute("SELECT value FROM state WHERE key = 'noise_secret'").fetchone()
        if row is not None and not path.exists():
            raise StateError(f"{path} is gone: {_COPY_BACK}")
        secret = noise_secret(path)
        if row is None:
            self._db.execute("INSERT INTO state VALUES ('noise_secret', ?)", (fingerprint_of(secret),))
        elif row[0] != fingerprint_of(secret):
            raise StateError(f"{path} is not the one that {self._path.name} began with: {_COPY_BACK}")
        return secret

    def transaction(self) -> AbstractContextManager[None]:
        """All that is asked and written inside the ``with`` is one step, all or nothing. StateError if it fails."""
        return transaction(self._db, self._path)

    def charge(self, charge: Charge, workers: Sequence[str]) -> None:
        """Records an answer for these workers' updates, in a transaction.

        A StateError if there was one for this round, or if one of them is in another set.
        """
        values = [getattr(charge, column) for column in _COLUMNS]
        places = ", ".join("?" * len(_COLUMNS))
        self._db.execute(f"INSERT INTO releases ({', '.join(_COLUMNS)}) VALUES ({places})", values)
        self._db.executemany(
            "INSERT INTO used VALUES (?, ?, ?)", [(charge.run_id, charge.round, worker) for worker in workers]
        )

    def hear_of(self, run_id: str, round_number: int, *, now: float) -> None:
        """Records that a run was asked for, unless it is known."""
        self._db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?)", (run_id, round_number, now))

    # -- asking ---------------------------------------------------------------------------------------------

    def charged(self, run_id: str, round_number: int) -> Charge | None:
        """The answer for this round; None if there was none."""
        row = self._db.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM releases WHERE run_id = ? AND round = ?", (run_id, round_number)
        ).fetchone()
        return None if row is None else Charge(**dict(zip(_COLUMNS, row, strict=True)))

    def used(self, run_id: str, round_number: int) -> set[str]:
        """The workers whose seeds for this round are in an answer."""
        rows = self._db.execute("SELECT worker FROM used WHERE run_id = ? AND round = ?", (run_id, round_number))
        return {str(worker) for (worker,) in rows}

    def is_blank(self) -> bool:
        """Whether no run was ever heard of: then nothing is known of what an earlier ledger gave."""
        return self._db.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None

    def noises(self, run_id: str | None = None) -> dict[float, int]:
        """Noise multiplier -> how many answers of this run (None: of all runs) had that noise."""
        rows = self._db.execute(
            "SELECT noise, count(*) FROM releases WHERE noise IS NOT NULL AND run_id = ifnull(?, run_id)"
            " GROUP BY noise",
            (run_id,),
        )
        return {float(noise): int(number) for noise, number in rows}

    def num_without_noise(self, run_id: str | None = None) -> int:
        """How many answers of this run (None: of all runs) had no noise."""
        (number,) = self._db.execute(
            "SELECT count(*) FROM releases WHERE noise IS NULL AND run_id = ifnull(?, run_id)", (run_id,)
        ).fetchone()
        return int(number)

    def num_releases(self) -> int:
        """How many answers there were, of all runs."""
        (number,) = self._db.execute("SELECT count(*) FROM releases").fetchone()
        return int(number)

    def close(self) -> None:
        self._db.close()
