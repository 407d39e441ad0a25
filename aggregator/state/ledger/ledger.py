"""The ledger: one SQLite file that is the truth about a run. What it records has happened; what it does not has not.

``run``      what the run is (name, id, seed, task, ...), its epoch, and the accumulator file that counts
``rounds``   one row a round; the open one has no ``closed_by``. ``draws`` say who takes part in it
``updates``  one row an update, with its verdict; a unique index keeps an update from being folded twice. Of messages
             that do not count, only some have a row of their own; a row for ``num_messages`` counts the others
``kept_bodies`` the files with the bodies of updates folded in the open round, where those may have to be taken out
             again
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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from aggregator.state.ledger.measurements import Measurements
from aggregator.state.ledger.rows import (
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
from aggregator.state.ledger.schema import COMPANIONS, FORMAT, WITH_SETTINGS
from broker.wire import Draw, packed_seeds
from learning import plain

_OF_UPDATE = UpdateRow.__slots__
_INSERT_UPDATE = f"INSERT INTO updates ({', '.join(_OF_UPDATE)}) VALUES ({', '.join('?' * len(_OF_UPDATE))})"
_VALUES_OF_UPDATE = attrgetter(*_OF_UPDATE)
_JSON_OF_UPDATE = [_OF_UPDATE.index(name) for name in ("train_metrics", "eval_metrics", "figures")]
_MOST_DRAWS = 100
"""Of one round: there is a second one only where nobody could take part."""


class Ledger(Measurements):
    """An open ledger. Every write is one transaction, which is on the disk when the call returns."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self._measures_late:
            for (number,) in self._db.execute("SELECT round FROM rounds WHERE closed_by IS NOT NULL").fetchall():
                self._measure(number)

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
            self._db.executemany("DELETE FROM kept_bodies WHERE base_round = ? AND worker = ?", keys)
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
            self._insert_verdicts(number, result)
            self._insert_end(number, result)
            if result.site_means is None:
                measured = self._measure_all(number)
            else:
                measured = self._measured_together(number, result.site_means)
            self._insert_companions(number, result.companions)
            self._db.execute("DELETE FROM kept_bodies")
            self._keep_given(number, result)
            self._set({"accumulated": None, "frozen": None, "num_present": num_present})
            if result.next_clip is not None:
                self._set({"dp_clip": result.next_clip})
            if next_round is not None:
                self._open(next_round, result.closed_at, next_draws, next_num_chosen)
        return measured

    def _insert_verdicts(self, number: int, result: RoundResult) -> None:
        """What the end of the round made of its updates."""
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

    def _insert_end(self, number: int, result: RoundResult) -> None:
        """The round's own row, with the numbers of updates by verdict, which are final."""
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

    def _keep_given(self, number: int, result: RoundResult) -> None:
        """Keeps what a masked round was closed with until the next one is: keepers give its masks for no other set."""
        was_given = result.site_means is not None and result.closed_by is not ClosedBy.ABANDONED
        given = {name: self._fact(name) for name in ("accumulated", "frozen")}
        self._db.execute("DELETE FROM seeds WHERE base_round IS NOT ?", (number if was_given else None,))
        self._set({"given": given if was_given and given["frozen"] is not None else None})

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

    def _if_changed(self, number: int, settings: Mapping[str, Any]) -> str | None:
        """These settings as text, if they are not those of the round before; else None."""
        last = self._db.execute(
            f"SELECT settings FROM rounds INDEXED BY {WITH_SETTINGS}"
            " WHERE round < ? AND settings IS NOT NULL ORDER BY round DESC LIMIT 1",
            (number,),
        ).fetchone()
        text = json.dumps(dict(settings), sort_keys=True)
        return None if not settings or last == (text,) else text

    def _insert_companions(self, number: int, companions: Mapping[str, str]) -> None:
        if not companions:
            return
        self._db.execute(COMPANIONS)
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

    def undo_from(self, number: int) -> bool:
        """Opens round ``number`` again, with nothing folded, as if no later round had been opened.

        True if it is decided already: it had masked updates, and goes on with these, since keepers give the masks of
        this set again, and of no other.
        """
        with self.transaction():
            given, clip = self._fact("given"), self._clip_of(number)
            closed = None if given is None else int(given["frozen"]["round"])
            is_decided = closed == number
            self._db.execute(
                "UPDATE updates SET verdict = 'undone'"
                " WHERE round >= ? AND verdict IN ('folded', 'outvoted', 'abandoned', 'diverged', 'measured')",
                (number + is_decided,),
            )
            self._db.execute("DELETE FROM kept_bodies")
            self._db.execute("DELETE FROM seeds WHERE base_round >= ?", (number + is_decided,))
            self._db.execute("DELETE FROM rounds WHERE round > ?", (number,))
            self._db.execute("UPDATE rounds SET closed_by = NULL, closed_at = NULL WHERE round = ?", (number,))
            self._set({"accumulated": None, "frozen": None, "min_epoch": self._epoch or 0, "measured_round": None})
            if given is not None and is_decided:
                self._set(given)
            if closed is not None and closed >= number:
                self._set({"given": None})
            if clip is not None:
                self._set({"dp_clip": clip})
        return is_decided

    def _clip_of(self, number: int) -> float | None:
        """What the updates of this closed round were clipped to; None if they were not, or it is open."""
        found = self._db.execute("SELECT privacy FROM rounds WHERE round = ?", (number,)).fetchone()
        noise = json.loads(found[0]).get("noise") if found is not None and found[0] else None
        return None if noise is None else float(noise["clip"])

    def ask_again(self) -> None:
        """Records that all workers are to send their updates for the open round once more, in this epoch."""
        self.record({"min_epoch": self._epoch or 0})

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
        self._db.executemany(_INSERT_UPDATE, map(_values_of, rows))

    def _insert_kept(self, kept: Iterable[KeptBody]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO kept_bodies VALUES (?, ?, ?, ?, ?)",
            [
                (each.base_round, each.worker, each.file, each.blake3, ",".join(key.hex() for key in each.keys))
                for each in kept
            ],
        )

    def _insert_seeds(self, seeds: Iterable[MaskSeeds]) -> None:
        rows = [(each.base_round, each.worker, each.masked_sha256, packed_seeds(each.seeds)) for each in seeds]
        self._db.executemany("INSERT OR REPLACE INTO seeds VALUES (?, ?, ?, ?)", rows)


def _fields(value: Accumulated | Frozen) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__slots__}


def _text_of(draws: Sequence[Draw]) -> str | None:
    return json.dumps([[draw.number, draw.threshold] for draw in draws]) if draws else None


def _values_of(row: UpdateRow) -> list[object]:
    """As SQLite takes them: metrics as JSON, all else as it is."""
    values = list(_VALUES_OF_UPDATE(row))
    for index in _JSON_OF_UPDATE:
        values[index] = json.dumps(plain(values[index]), sort_keys=True) if values[index] else "{}"
    return values
