"""The ledger: one SQLite file that is the truth about a run. What it records has happened; what it does not has not.

``run``      what the run is (name, id, seed, task, ...), its epoch, and the accumulator file that counts
``rounds``   one row a round; the open one has no ``closed_by``. ``draws`` say who takes part in it
``updates``  one row an update, with its verdict; a unique index keeps an update from being folded twice. Of messages
             that do not count, only some have a row of their own; a row for ``num_messages`` counts the others
``kept``     the files with the bodies of updates folded in the open round, where those may have to be taken out again
``attempts`` messages that came back again and again, while they are being handled
``commands`` what people asked of the run (``fl-run``), each once, and what came of it; a command is in it in the same
             transaction as its effect
``releases`` what models with noise cost of the privacy budget: charged before the noise exists, never deleted
``seeds``    of masked updates folded in the open round: the sealed seeds of their masks, for the keepers
``companions`` digests of the companions of each round's model; only for runs whose server step has state. Such a ledger
             has format 2, so that a fedmq that would ignore the table does not go on with the run

An aggregator claims the ledger with a new epoch. From then on, every transaction of an earlier aggregator fails.
"""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aggregator.state.holding import Hold
from aggregator.state.rows import (
    Accumulated,
    Charge,
    ClosedBy,
    CommandRow,
    FoldedUpdate,
    Frozen,
    KeptBody,
    MaskSeeds,
    RoundResult,
    UpdateRow,
    Verdict,
)
from aggregator.state.site_metrics import MostWeight, Reported, figures
from broker.wire import Draw, packed_seeds, unpacked_seeds
from console import LeadershipLost, StateError
from learning import Measured, at_sites, but_at_sites, plain, restored

FORMAT = 2
_MOST_DRAWS = 100
"""Of one round: there is a second one only where nobody could take part."""
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

_ROUNDS_OF_SAMPLES = 50
"""Who answers without an update weighs what its last one did, if that is not longer ago."""

_KEPT = """
CREATE TABLE IF NOT EXISTS kept (
    base_round INTEGER, worker TEXT, file TEXT NOT NULL, sha256 TEXT NOT NULL, keys TEXT NOT NULL,
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

_COMPANIONS = "CREATE TABLE IF NOT EXISTS companions (round INTEGER, name TEXT, sha256 TEXT, PRIMARY KEY (round, name))"


class Ledger:
    """An open ledger. Every write is one transaction, which is on the disk when the call returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._migrate()
            self._epoch: int | None = None
            self._hold = Hold(path.parent)
        except sqlite3.DatabaseError as error:
            raise StateError(f"{path} cannot be used as a ledger: {error}") from error

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise StateError(f"{self._path} was written by a newer fedmq (format {version}); upgrade to go on")
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FORMAT_WITHOUT_COMPANIONS}; COMMIT;")
        self._db.execute(_KEPT)
        self._db.execute(_SEEDS)
        self._db.execute(_RELEASES)
        self._db.execute(_COMMANDS)
        has_metrics_of_received_models = IS_OF_MEASURED not in columns_of(self._db, "rounds")
        for table, column, kind in _ADDED_COLUMNS:
            if column not in columns_of(self._db, table):
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        self._db.execute("CREATE INDEX IF NOT EXISTS updates_by_base ON updates (base_round, worker)")
        if version and has_metrics_of_received_models:
            for (number,) in self._db.execute("SELECT round FROM rounds WHERE closed_by IS NOT NULL").fetchall():
                self._measure(number)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and nothing at all once another aggregator has claimed the ledger (LeadershipLost)."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._check_epoch()
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StateError(f"{self._path}: {error}") from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    # -- the run --------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What was recorded about the run; empty before the first round."""
        return {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM run")}

    def _fact(self, key: str) -> Any:
        """A single fact, for frequent look-ups; None if it was not recorded."""
        found = self._db.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def record(self, facts: Mapping[str, Any]) -> None:
        with self.transaction():
            self._set(facts)

    def _set(self, facts: Mapping[str, Any]) -> None:
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
        if self._epoch is not None and self._fact("epoch") != self._epoch:
            raise LeadershipLost(f"another aggregator took over {self._path}")

    # -- committing -----------------------------------------------------------------------------------------

    def open_round(self, number: int, *, now: float, draws: Sequence[Draw] = (), num_chosen: int = 0) -> None:
        """Opens a round, in which those of these draws take part (none: everybody); or leaves it as it is.

        ``num_chosen`` of the workers present are among them.
        """
        with self.transaction():
            self._open(number, now, draws, num_chosen)

    def _open(self, number: int, now: float, draws: Sequence[Draw], num_chosen: int) -> None:
        opened = self._db.execute(
            "INSERT OR IGNORE INTO rounds (round, opened_at, draws) VALUES (?, ?, ?)", (number, now, _text_of(draws))
        )
        if opened.rowcount:
            self._set({"num_chosen": num_chosen})

    def draw_again(self, number: int, draws: Sequence[Draw], *, num_chosen: int) -> None:
        """Records the draws of the open round, the last of which is new; of very many, only the last ones."""
        with self.transaction():
            kept = _text_of(draws[-_MOST_DRAWS:])
            self._db.execute("UPDATE rounds SET draws = ? WHERE round = ?", (kept, number))
            self._set({"num_chosen": num_chosen})

    def draws(self, number: int) -> tuple[Draw, ...]:
        """The draws of a round; none if everybody takes part in it, or if it is not known here."""
        found = self._db.execute("SELECT draws FROM rounds WHERE round = ?", (number,)).fetchone()
        given = [] if found is None else json.loads(found[0] or "[]")
        return tuple(Draw(number=drawn, threshold=threshold) for drawn, threshold in given)

    def commit(
        self,
        rows: Iterable[UpdateRow],
        accumulated: Accumulated | None,
        *,
        kept: Iterable[KeptBody] = (),
        seeds: Iterable[MaskSeeds] = (),
        num_present: int = 0,
        num_chosen: int = 0,
    ) -> None:
        """Records that these updates are decided, and that this accumulator file holds the open round's sum.

        ``kept`` are the bodies of those that can be taken out of it again, ``seeds`` what keepers need of masked ones.
        """
        with self.transaction():
            self._insert(rows)
            self._insert_kept(kept)
            self._insert_seeds(seeds)
            self._set({"num_present": num_present, "num_chosen": num_chosen})
            if accumulated is not None:
                self._set({"accumulated": _fields(accumulated)})

    def withdraw(self, updates: Mapping[FoldedUpdate, str], accumulated: Accumulated | None) -> None:
        """Records that these updates of the open round count no more, each for its reason, and what sum is left.

        None: no update is left in it.
        """
        with self.transaction():
            keys = [(update.base_round, update.worker) for update in updates]
            self._db.executemany(
                "UPDATE updates SET verdict = 'withdrawn', reason = ?"
                " WHERE base_round = ? AND worker = ? AND verdict = 'folded'",
                [(reason, *key) for key, reason in zip(keys, updates.values(), strict=True)],
            )
            self._db.executemany("DELETE FROM kept WHERE base_round = ? AND worker = ?", keys)
            self._db.executemany("DELETE FROM seeds WHERE base_round = ? AND worker = ?", keys)
            self._set({"accumulated": None if accumulated is None else _fields(accumulated)})

    def freeze(self, frozen: Frozen | None, charge: Charge | None = None) -> None:
        """Records that the open round's set is decided, and what its model will cost; None: that it is not, after all.

        The same charge counts once.
        """
        with self.transaction():
            self._set({"frozen": None if frozen is None else _fields(frozen)})
            if frozen is not None and charge is not None:
                self._db.execute(
                    "INSERT OR IGNORE INTO releases VALUES (?, ?, ?, ?, ?)",
                    (frozen.round, charge.sum_sha256, charge.noise, charge.clip, time.time()),
                )

    def charges(self) -> list[float]:
        """The noise multipliers of all models that were charged, those of rounds done again too."""
        return [float(noise) for (noise,) in self._db.execute("SELECT noise FROM releases ORDER BY round, charged_at")]

    def clip(self) -> float | None:
        """What the open round's updates are clipped to; None: to what the run began with."""
        clip = self._fact("dp_clip")
        return None if clip is None else float(clip)

    def spent_before(self) -> float:
        """What the run had spent (the sum of 1/noise^2) when this ledger took it over from the stream; 0 if not."""
        return float(self._fact("dp_spent_before") or 0.0)

    def frozen(self, number: int) -> Frozen | None:
        """What is recorded of this round, if it is the frozen one."""
        fields = self._fact("frozen")
        if fields is None or fields["round"] != number:
            return None
        return Frozen(**fields | {"by": ClosedBy(fields["by"])})

    def seeds(self) -> list[MaskSeeds]:
        """What keepers need of the masked updates of the open round, by worker."""
        rows = self._db.execute("SELECT base_round, worker, masked_sha256, seeds FROM seeds ORDER BY worker")
        return [
            MaskSeeds(
                base_round=base_round,
                worker=worker,
                masked_sha256=sha256,
                seeds=tuple(map(bytes, unpacked_seeds(packed))),
            )
            for base_round, worker, sha256, packed in rows
        ]

    def _insert_seeds(self, seeds: Iterable[MaskSeeds]) -> None:
        rows = [(each.base_round, each.worker, each.masked_sha256, packed_seeds(each.seeds)) for each in seeds]
        self._db.executemany("INSERT OR REPLACE INTO seeds VALUES (?, ?, ?, ?)", rows)

    def close_round(
        self,
        number: int,
        rows: Iterable[UpdateRow],
        result: RoundResult,
        *,
        next_round: int | None,
        next_draws: Sequence[Draw] = (),
        next_num_chosen: int = 0,
        install: Callable[[], None],
        num_present: int = 0,
    ) -> list[int]:
        """Ends the round, has ``install`` put its model in place, and opens the next round with nothing folded.

        Those of ``next_draws`` take part in that (none: everybody), ``next_num_chosen`` of the workers present.

        Returns the earlier rounds whose models the workers have now measured.
        """
        with self.transaction():
            install()
            self._insert(rows)
            if result.closed_by is ClosedBy.ABANDONED:
                self._db.execute(
                    "UPDATE updates SET verdict = 'abandoned', reason = ? WHERE round = ? AND verdict = 'folded'",
                    (result.reason, number),
                )
            self._db.executemany(
                "UPDATE updates SET cosine = ? WHERE base_round = ? AND worker = ? AND verdict = 'folded'",
                [(cosine, *key) for key, cosine in result.cosines.items()],
            )
            self._db.executemany(
                "UPDATE updates SET score = ?, verdict = ? WHERE base_round = ? AND worker = ? AND verdict = 'folded'",
                [
                    (vote.score, Verdict.OUTVOTED if vote.is_outvoted else Verdict.FOLDED, *key)
                    for key, vote in result.votes.items()
                ],
            )
            counts = dict(
                self._db.execute(
                    "SELECT verdict, sum(num_messages) FROM updates WHERE round = ? GROUP BY verdict", (number,)
                )
            )
            self._db.execute(
                "UPDATE rounds SET closed_at = ?, closed_by = ?, seconds = ?, num_folded = ?, num_late = ?,"
                " num_refused = ?, num_duplicate = ?, num_diverged = ?, num_unselected = ?, num_outvoted = ?,"
                " num_samples = ?, num_chosen = ?, metrics = ?, model_sha256 = ?, settings = ?, step_scalars = ?,"
                " sent_sha256 = ?, privacy = ?"
                " WHERE round = ?",
                (
                    result.closed_at,
                    result.closed_by,
                    result.seconds,
                    counts.get(Verdict.FOLDED, 0),
                    counts.get(Verdict.LATE, 0),
                    counts.get(Verdict.REFUSED, 0),
                    counts.get(Verdict.DUPLICATE, 0),
                    counts.get(Verdict.DIVERGED, 0),
                    counts.get(Verdict.UNSELECTED, 0),
                    counts.get(Verdict.OUTVOTED, 0),
                    result.num_samples,
                    result.num_chosen,
                    json.dumps(plain(result.measured.recorded())),
                    result.model_sha256,
                    self._if_changed(number, result.settings),
                    json.dumps(dict(result.scalars)) if result.scalars else None,
                    result.sent_sha256,
                    json.dumps(dict(result.privacy)) if result.privacy else None,
                    number,
                ),
            )
            if result.site_means is None:
                measured = self._measure_all(number)
            else:
                measured = self._measured_together(number, result.site_means)
            self._insert_companions(number, result.companions)
            self._db.execute("DELETE FROM kept")
            self._db.execute("DELETE FROM seeds")
            self._set({"accumulated": None, "frozen": None, "num_present": num_present})
            if result.next_clip is not None:
                self._set({"dp_clip": result.next_clip})
            if next_round is not None:
                self._open(next_round, result.closed_at, next_draws, next_num_chosen)
        return measured

    def _measure_all(self, number: int) -> list[int]:
        """Records what updates say of their training and of the models they began with; returns the latter's rounds."""
        self._measure(number)
        bases = self._db.execute("SELECT DISTINCT base_round FROM updates WHERE round = ?", (number,)).fetchall()
        models = sorted(base - 1 for (base,) in bases if base is not None and self.base_round() < base <= number)
        return [model for model in models if self._measure(model)]

    def _measured_together(self, number: int, means: Mapping[str, float]) -> list[int]:
        """The same from the means of all masked updates of a round, which were trained from the model before it."""
        self._db.execute(
            "UPDATE rounds SET worker_metrics = ?, worker_medians = '{}' WHERE round = ?",
            (json.dumps(plain(but_at_sites(means))), number),
        )
        of_model, before = at_sites(means), number - 1
        if before == self.base_round():
            self._set({"base_metrics": plain(of_model)})
        row = self._db.execute("SELECT worker_metrics FROM rounds WHERE round = ?", (before,)).fetchone()
        if row is None or not of_model:
            return []
        together = json.loads(row[0] or "{}") | plain(of_model)
        self._db.execute("UPDATE rounds SET worker_metrics = ? WHERE round = ?", (json.dumps(together), before))
        return [before]

    def _if_changed(self, number: int, settings: Mapping[str, Any]) -> str | None:
        """These settings as text, if they are not those of the round before; else None."""
        last = self._db.execute(
            "SELECT settings FROM rounds WHERE round < ? AND settings IS NOT NULL ORDER BY round DESC LIMIT 1",
            (number,),
        ).fetchone()
        text = json.dumps(dict(settings), sort_keys=True)
        return None if not settings or last == (text,) else text

    def _insert_companions(self, number: int, companions: Mapping[str, str]) -> None:
        if not companions:
            return
        self._db.execute(_COMPANIONS)
        self._db.execute(f"PRAGMA user_version = {FORMAT}")
        rows = [(number, name, sha256) for name, sha256 in companions.items()]
        self._db.executemany("INSERT OR REPLACE INTO companions VALUES (?, ?, ?)", rows)

    def take_command(self, row: CommandRow, facts: Mapping[str, Any]) -> None:
        """Records a command, and what it makes of the run as facts, in one transaction."""
        names = CommandRow.__slots__
        with self.transaction():
            self._db.execute(
                f"INSERT INTO commands ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
                [getattr(row, name) for name in names],
            )
            self._set(facts)

    def command(self, command_id: str) -> CommandRow | None:
        """The command with this id; None if there is none."""
        return next(self._command_rows("WHERE id = ?", command_id), None)

    def commands(self, *, most: int) -> list[CommandRow]:
        """The newest commands, in the order in which they were taken."""
        return list(self._command_rows("ORDER BY number DESC LIMIT ?", most))[::-1]

    def _command_rows(self, rest: str, value: str | int) -> Iterator[CommandRow]:
        names = CommandRow.__slots__
        for found in self._db.execute(f"SELECT {', '.join(names)} FROM commands {rest}", (value,)):
            row = dict(zip(names, found, strict=True))
            yield CommandRow(**row | {"is_accepted": bool(row["is_accepted"])})

    def undo_from(self, number: int) -> None:
        """Opens round ``number`` again, with nothing folded, as if no later round had been opened."""
        with self.transaction():
            self._db.execute(
                "UPDATE updates SET verdict = 'undone'"
                " WHERE round >= ? AND verdict IN ('folded', 'outvoted', 'abandoned', 'diverged', 'measured')",
                (number,),
            )
            self._db.execute("DELETE FROM kept")
            self._db.execute("DELETE FROM seeds")
            self._db.execute("DELETE FROM rounds WHERE round > ?", (number,))
            self._db.execute("UPDATE rounds SET closed_by = NULL, closed_at = NULL WHERE round = ?", (number,))
            self._set({"accumulated": None, "frozen": None, "min_epoch": self._epoch or 0, "measured_round": None})

    def ask_again(self) -> None:
        """Records that all workers are to send their updates for the open round once more, in this epoch."""
        self.record({"min_epoch": self._epoch or 0})

    def min_epoch(self) -> int:
        """The least epoch of a head that asks for the updates the open round needs."""
        return int(self._fact("min_epoch") or 0)

    def attempt(self, message: str) -> int:
        """Counts an attempt to handle this message; returns the count, including this attempt."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO attempts VALUES (?, 1) ON CONFLICT (message) DO UPDATE SET number = number + 1", (message,)
            )
            (number,) = self._db.execute("SELECT number FROM attempts WHERE message = ?", (message,)).fetchone()
        return int(number)

    def take_back_attempt(self, message: str) -> None:
        """Counts the last attempt no more: the message waits for its body, and the attempt is still to come."""
        with self.transaction():
            self._db.execute("UPDATE attempts SET number = number - 1 WHERE message = ?", (message,))

    def survived(self, message: str) -> None:
        """Forgets the attempts: the message was handled without harm."""
        with self.transaction():
            self._db.execute("DELETE FROM attempts WHERE message = ?", (message,))

    def _insert(self, rows: Iterable[UpdateRow]) -> None:
        names = UpdateRow.__slots__
        self._db.executemany(
            f"INSERT INTO updates ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            [tuple(_plain(getattr(row, name)) for name in names) for row in rows],
        )

    def _insert_kept(self, kept: Iterable[KeptBody]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)",
            [
                (each.base_round, each.worker, each.file, each.sha256, ",".join(key.hex() for key in each.keys))
                for each in kept
            ],
        )

    def _measure(self, number: int) -> bool:
        """Records what the workers measured in this round and of the model after it; False if no row has changed.

        The model may be that of a round that this ledger has no row of: the one that the run began with.
        """
        found = figures(trained=self._trained(number), measured=self._measured(number), most=self._most_weight())
        values = (json.dumps(plain(found.means)), json.dumps(found.medians), json.dumps(found.num_not_finite))
        if number == self.base_round():
            self._set({"base_metrics": plain(found.means)})
        changed = self._db.execute(
            "UPDATE rounds SET worker_metrics = ?, worker_medians = ?, num_not_finite = ? WHERE round = ?"
            " AND (worker_metrics, worker_medians, num_not_finite) IS NOT (?, ?, ?)",
            (*values, number, *values),
        )
        return changed.rowcount > 0

    def _trained(self, number: int) -> list[Reported]:
        """What the updates of this round say of their training, outvoted ones too; of one worker, the newest."""
        rows = self._db.execute(
            "SELECT worker, num_samples, train_metrics FROM updates WHERE round = ?"
            " AND verdict IN ('folded', 'outvoted') ORDER BY base_round",
            (number,),
        )
        return list({worker: Reported(worker, num, json.loads(text)) for worker, num, text in rows}.values())

    def _measured(self, number: int) -> list[Reported]:
        """What workers say of the model after this round, whether or not they had an update of use."""
        rows = self._db.execute(
            "SELECT worker, num_samples, eval_metrics FROM updates WHERE base_round = ?"
            " AND verdict IN ('folded', 'outvoted', 'abandoned', 'diverged', 'measured') ORDER BY id",
            (number + 1,),
        )
        found = {worker: Reported(worker, num, json.loads(text)) for worker, num, text in rows}
        if any(each.num_samples is None for each in found.values()):
            known = self._samples_before(number)
            found = {
                worker: each if each.num_samples else replace(each, num_samples=known.get(worker))
                for worker, each in found.items()
            }
        return list(found.values())

    def _samples_before(self, number: int) -> dict[str, int]:
        """Worker -> the number of samples that it trained on when it last did, of the last rounds up to this one."""
        rows = self._db.execute(
            "SELECT worker, num_samples FROM updates WHERE base_round BETWEEN ? AND ? AND verdict = 'folded'"
            " ORDER BY base_round",
            (number - _ROUNDS_OF_SAMPLES, number),
        )
        return {str(worker): int(num_samples) for worker, num_samples in rows}

    def _most_weight(self) -> MostWeight:
        """What one worker's evaluation may weigh, by the settings of the run."""
        settings = self._fact("settings") or {}
        return MostWeight(settings.get("max_samples"), settings.get("max_weight"))

    def sites_measure(self, number: int) -> bool:
        """Whether workers sent metrics of the model that they trained in this round."""
        return any(Measured.of(each.metrics).metrics for each in self._measured(number - 1))

    def is_measured(self, number: int) -> bool:
        """Whether the sites were asked to measure the model after this last round, and had their time."""
        return bool(self._fact("measured_round") == number)

    def evaluations(self, number: int) -> dict[str, Measured]:
        """Worker -> what it measured of the model after this round."""
        found = {each.worker: Measured.of(each.metrics) for each in self._measured(number)}
        return {worker: found[worker] for worker in sorted(found)}

    def close_evaluation(self, number: int, rows: Iterable[UpdateRow], result: RoundResult | None = None) -> None:
        """Records what was decided while the sites measured the model after this round, and that this is over.

        ``result`` becomes the row of the base round, which has none otherwise.
        """
        with self.transaction():
            self._insert(rows)
            if result is not None:
                self._insert_base(number, result)
            self._measure(number)
            self._set({"measured_round": number})

    def _insert_base(self, number: int, result: RoundResult) -> None:
        """The row of the round that was closed before this ledger began, as far as there is anything to say of it."""
        columns = {
            "round": number,
            "opened_at": result.closed_at - result.seconds,
            "closed_at": result.closed_at,
            "closed_by": result.closed_by,
            "seconds": result.seconds,
            **dict.fromkeys(("num_folded", "num_late", "num_refused", "num_duplicate", "num_diverged"), 0),
            "num_samples": result.num_samples,
            "metrics": json.dumps(plain(result.measured.recorded())),
            "worker_metrics": "{}",
            "model_sha256": result.model_sha256,
        }
        self._db.execute(
            f"INSERT OR REPLACE INTO rounds ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            list(columns.values()),
        )

    def metric_names(self, number: int) -> list[str]:
        """The metrics there are by the end of this round, under the names that settings have for them."""
        row = self.round(number)
        received = figures(trained=(), measured=self._measured(number - 1)).means
        return sorted({*row["metrics"], *row["worker_metrics"], *received})

    # -- asking ---------------------------------------------------------------------------------------------

    def is_folded(self, base_round: int, worker: str) -> str | None:
        """The instance whose update with this key is committed, outvoted or not; None if there is none."""
        row = self._db.execute(
            "SELECT instance FROM updates WHERE base_round = ? AND worker = ? AND verdict IN ('folded', 'outvoted')",
            (base_round, worker),
        ).fetchone()
        return None if row is None else str(row[0])

    def is_answered(self, base_round: int, worker: str, verdict: Verdict) -> str | None:
        """The instance whose answer without tensors with this key is committed; None if there is none."""
        row = self._db.execute(
            "SELECT instance FROM updates WHERE base_round = ? AND worker = ? AND verdict = ?",
            (base_round, worker, verdict),
        ).fetchone()
        return None if row is None else str(row[0])

    def answers(self, number: int, verdict: Verdict) -> dict[str, str | None]:
        """Worker -> its reason, of the answers without tensors to this round's model, where no update followed."""
        rows = self._db.execute(
            "SELECT worker, reason FROM updates WHERE base_round = ? AND round = ? AND verdict = ? AND worker"
            " NOT IN (SELECT worker FROM updates WHERE base_round = ? AND verdict = 'folded') ORDER BY id",
            (number, number, verdict, number),
        )
        return {str(worker): reason for worker, reason in rows}

    def outvoted(self) -> dict[str, int]:
        """Worker -> how often its update was outvoted, of those of which one was."""
        rows = self._db.execute("SELECT worker, count(*) FROM updates WHERE verdict = 'outvoted' GROUP BY worker")
        return {str(worker): int(number) for worker, number in rows}

    def answered(self, number: int) -> list[str]:
        """The workers whose updates are committed in this round."""
        rows = self._db.execute("SELECT DISTINCT worker FROM updates WHERE round = ? AND verdict = 'folded'", (number,))
        return [str(worker) for (worker,) in rows]

    def folded(self, number: int) -> list[FoldedUpdate]:
        """The updates that are committed in this round, which is open, in the order in which they came."""
        rows = self._db.execute(
            "SELECT base_round, worker, staleness, num_samples, weight, base_weight, norm, figures, is_fresh, file,"
            " sha256, keys FROM updates LEFT JOIN kept USING (base_round, worker)"
            " WHERE round = ? AND verdict = 'folded' ORDER BY id",
            (number,),
        )
        return [
            FoldedUpdate(
                base_round=base_round,
                worker=worker,
                staleness=staleness,
                num_samples=num_samples,
                weight=weight,
                base_weight=_base_of_0_1_0(weight, staleness) if base_weight is None else base_weight,
                norm=norm,
                figures=json.loads(figures or "{}"),
                is_fresh=bool(is_fresh),
                kept=None if kept[0] is None else _kept_body(base_round, worker, *kept),
            )
            for base_round, worker, staleness, num_samples, weight, base_weight, norm, figures, is_fresh, *kept in rows
        ]

    def kept_files(self) -> set[str]:
        """The files with bodies that are kept."""
        return {str(file) for (file,) in self._db.execute("SELECT file FROM kept")}

    def median_samples(self, *, before: int) -> int | None:
        """The median num_samples, the lower of two, of the updates in the last round before ``before`` that has any."""
        (last,) = self._db.execute(
            "SELECT max(round) FROM updates WHERE verdict = 'folded' AND round < ?", (before,)
        ).fetchone()
        rows = self._db.execute(
            "SELECT num_samples FROM updates WHERE verdict = 'folded' AND round = ? ORDER BY num_samples", (last,)
        ).fetchall()
        return int(rows[(len(rows) - 1) // 2][0]) if rows else None

    def workers(self) -> dict[str, bool]:
        """Worker -> whether an update of it has been folded, of all whose updates were fit to be."""
        rows = self._db.execute(
            "SELECT worker, max(verdict IN ('folded', 'outvoted', 'abandoned', 'undone', 'withdrawn')) FROM updates"
            " WHERE verdict != 'refused' AND worker IS NOT NULL GROUP BY worker"
        )
        return {str(worker): bool(is_folded) for worker, is_folded in rows}

    def accumulated(self) -> Accumulated | None:
        fields = self._fact("accumulated")
        return None if fields is None else Accumulated(**fields)

    def num_present(self) -> int:
        """How many workers were present at the last commit."""
        return int(self._fact("num_present") or 0)

    def num_chosen(self) -> int:
        """How many of them were chosen to take part in the open round; 0 if that was not known yet."""
        return int(self._fact("num_chosen") or 0)

    def patience_s(self) -> float:
        """How long workers may be silent and still count as present; 0 if it was not recorded."""
        return float(self._fact("patience_s") or 0.0)

    def began_at(self) -> float | None:
        """When the run began, Unix time; None if an earlier version of fedmq began it, which did not record that."""
        began_at = self._fact("began_at")
        return None if began_at is None else float(began_at)

    def base_round(self) -> int:
        """The round whose model this ledger begins with: 0, unless it took a run over from the stream."""
        return int(self._fact("base_round"))

    def last_closed_round(self) -> int:
        """The last closed round; the base round if none was closed."""
        row = self._db.execute("SELECT max(round) FROM rounds WHERE closed_by IS NOT NULL").fetchone()
        return self.base_round() if row[0] is None else int(row[0])

    def model_sha256(self, round_number: int) -> str:
        """The digest of the model after a closed round, or after the base round."""
        if round_number == self.base_round():
            return str(self._fact("base_sha256"))
        return str(self.round(round_number)["model_sha256"])

    def sent_sha256(self, round_number: int) -> str:
        """The digest of what is sent with the head of the model after a closed round, or after the base round."""
        if round_number == self.base_round():
            return str(self._fact("base_sent_sha256") or self._fact("base_sha256"))
        row = self.round(round_number)
        return str(row["sent_sha256"] or row["model_sha256"])

    def counted(self, *, before: int) -> dict[str, int]:
        """Worker -> the round of its last update that came to count, of those for rounds before this one.

        One that was outvoted did.
        """
        rows = self._db.execute(
            "SELECT worker, max(base_round) FROM updates WHERE verdict IN ('folded', 'outvoted') AND base_round < ?"
            " GROUP BY worker",
            (before,),
        )
        return {str(worker): int(number) for worker, number in rows}

    def workers_between(self, after: int, before: int) -> set[str]:
        """The workers with an update that is folded in a round after the one and before the other."""
        rows = self._db.execute(
            "SELECT DISTINCT worker FROM updates WHERE verdict = 'folded' AND round > ? AND round < ?", (after, before)
        )
        return {str(worker) for (worker,) in rows}

    def companions(self, round_number: int) -> dict[str, str]:
        """Name -> digest of the companions of the model after a closed round."""
        (format_,) = self._db.execute("PRAGMA user_version").fetchone()
        if format_ < FORMAT:
            return {}
        return dict(self._db.execute("SELECT name, sha256 FROM companions WHERE round = ?", (round_number,)))

    def step_scalars(self, round_number: int) -> dict[str, float]:
        """What the server's step remembered of the run after a closed round; nothing after the base round."""
        row = self._db.execute("SELECT step_scalars FROM rounds WHERE round = ?", (round_number,)).fetchone()
        return {} if row is None or row[0] is None else dict(json.loads(row[0]))

    def round(self, number: int) -> dict[str, Any]:
        """One closed round. ``metrics`` are those of the central evaluation, over ``num_test_samples``.

        ``worker_metrics`` are means over the workers, weighted by samples; ``worker_medians`` have (lower, upper),
        or None of what too few of them measured; see site_metrics.py. What is under ``eval.`` is of the model after
        this round, and so is there once workers have answered that model.
        """
        (row,) = self._closed("AND round = ?", number)
        return row

    def rounds(self) -> Iterator[dict[str, Any]]:
        """The closed rounds, in order."""
        return self._closed("ORDER BY round")

    def _closed(self, rest: str, *values: object) -> Iterator[dict[str, Any]]:
        cursor = self._db.execute(f"SELECT * FROM rounds WHERE closed_by IS NOT NULL {rest}", values)
        names = [column[0] for column in cursor.description]
        for found in cursor:
            row = dict(zip(names, found, strict=True))
            central = Measured.of(json.loads(row["metrics"]))
            yield row | {
                "metrics": central.metrics,
                "num_test_samples": central.num_samples,
                "worker_metrics": restored(json.loads(row["worker_metrics"])),
                "worker_medians": json.loads(row["worker_medians"] or "{}"),
                "settings": None if row["settings"] is None else json.loads(row["settings"]),
                "num_not_finite": json.loads(row["num_not_finite"] or "{}"),
                "privacy": json.loads(row["privacy"] or "{}"),
            }

    def close(self) -> None:
        self._db.close()
        self._hold.close()


def recorded_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The central metrics in a row from ``Ledger.round``, including ``num_samples``, as they are recorded elsewhere."""
    return Measured(row["metrics"], row.get("num_test_samples")).recorded()


def columns_of(database: sqlite3.Connection, table: str) -> set[str]:
    """The names of a table's columns."""
    return {str(row[1]) for row in database.execute(f"PRAGMA table_info({table})")}


def _fields(value: Accumulated | Frozen) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__slots__}


def _base_of_0_1_0(weight: float, staleness: int) -> float:
    """The base weight of an update whose ledger row has none: an integer, discounted by its staleness."""
    return float(round(weight * math.sqrt(1 + staleness)))


def _text_of(draws: Sequence[Draw]) -> str | None:
    return json.dumps([[draw.number, draw.threshold] for draw in draws]) if draws else None


def _kept_body(base_round: int, worker: str, file: str, sha256: str, keys: str) -> KeptBody:
    ids = tuple(bytes.fromhex(key) for key in keys.split(",") if key)
    return KeptBody(base_round=base_round, worker=worker, file=file, sha256=sha256, keys=ids)


def _plain(value: object) -> object:
    return json.dumps(plain(value), sort_keys=True) if isinstance(value, Mapping) else value
