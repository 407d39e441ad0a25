"""What a ledger says of its run."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aggregator.state.ledger.charged import Charged
from aggregator.state.ledger.database import Database
from aggregator.state.ledger.rows import (
    Accumulated,
    ClosedBy,
    CommandRow,
    FoldedUpdate,
    Frozen,
    KeptBody,
    MaskSeeds,
    Verdict,
)
from aggregator.state.ledger.schema import FORMAT
from broker.wire import Draw, unpacked_seeds
from learning import Measured, restored


class Records(Database):
    """Everything that is asked of a ledger, besides what workers measured."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._charged = Charged()

    def draws(self, number: int) -> tuple[Draw, ...]:
        """The draws of a round; none if everybody takes part in it, or if it is not known here."""
        found = self._db.execute("SELECT draws FROM rounds WHERE round = ?", (number,)).fetchone()
        given = [] if found is None else json.loads(found[0] or "[]")
        return tuple(Draw(number=drawn, threshold=threshold) for drawn, threshold in given)

    def charges(self) -> Mapping[float, int]:
        """Noise multiplier -> how many models with it were charged, those of rounds done again too."""
        return self._charged.counted(self._db)

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

    def given_file(self) -> str | None:
        """The file with the sum of the last closed round, if its updates were masked and keepers gave the masks."""
        given = self._fact("given")
        return None if given is None else str(given["accumulated"]["file"])

    def seeds(self, number: int) -> list[MaskSeeds]:
        """What keepers need of the masked updates of this round, the open one or the last one closed, by worker."""
        rows = self._db.execute(
            "SELECT base_round, worker, masked_sha256, seeds FROM seeds WHERE base_round = ? ORDER BY worker", (number,)
        )
        return [
            MaskSeeds(
                base_round=base_round,
                worker=worker,
                masked_sha256=sha256,
                seeds=tuple(map(bytes, unpacked_seeds(packed))),
            )
            for base_round, worker, sha256, packed in rows
        ]

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

    def min_epoch(self) -> int:
        """The least epoch of a head that asks for the updates the open round needs."""
        return int(self._fact("min_epoch") or 0)

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
            " blake3, keys FROM updates LEFT JOIN kept_bodies USING (base_round, worker)"
            " WHERE round = ? AND verdict = 'folded' ORDER BY id",
            (number,),
        )
        return [
            FoldedUpdate(
                base_round=base_round,
                worker=worker,
                staleness=staleness,
                num_samples=1 if num_samples is None else num_samples,
                weight=weight,
                base_weight=_base_of_0_1_0(weight, staleness) if base_weight is None else base_weight,
                norm=norm,
                figures=json_object(figures),
                is_fresh=bool(is_fresh),
                kept=None if kept[0] is None else _kept_body(base_round, worker, *kept),
            )
            for base_round, worker, staleness, num_samples, weight, base_weight, norm, figures, is_fresh, *kept in rows
        ]

    def kept_files(self) -> set[str]:
        """The files with bodies that are kept."""
        return {str(file) for (file,) in self._db.execute("SELECT file FROM kept_bodies")}

    def median_samples(self, *, before: int) -> int | None:
        """The median num_samples, the lower of two, of the updates in the last round before ``before`` that has any.

        None if there is no such round, or its updates do not say.
        """
        (last,) = self._db.execute(
            "SELECT max(round) FROM updates WHERE verdict = 'folded' AND round < ?", (before,)
        ).fetchone()
        rows = self._db.execute(
            "SELECT num_samples FROM updates WHERE verdict = 'folded' AND round = ? AND num_samples IS NOT NULL"
            " ORDER BY num_samples",
            (last,),
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

    def keepers_end(self, last: int) -> str | None:
        """Why keepers give nothing for any round after ``last``, in their words; None if they may."""
        ended = self._fact("keepers_end")
        return str(ended["reason"]) if ended is not None and ended["round"] == last else None

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

    def counted(self, *, first: int, before: int) -> dict[str, int]:
        """Worker -> the round of its last update that came to count, of those for rounds in [``first``, ``before``).

        An update that was outvoted came to count, too.
        """
        rows = self._db.execute(
            "SELECT worker, max(base_round) FROM updates WHERE verdict IN ('folded', 'outvoted')"
            " AND base_round >= ? AND base_round < ? GROUP BY worker",
            (first, before),
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
        (row,) = self._asked(("round", number), lambda: list(self._closed("AND round = ?", number)))
        return dict(row)

    def rounds(self, *, first: int = 0, last: int | None = None) -> Iterator[dict[str, Any]]:
        """The closed rounds from ``first`` on, up to ``last``, in order."""
        rest = "AND round >= ?1 AND (?2 IS NULL OR round <= ?2) ORDER BY round"
        return self._closed(rest, first, last)

    def _closed(self, rest: str, *values: object) -> Iterator[dict[str, Any]]:
        cursor = self._db.execute(f"SELECT * FROM rounds WHERE closed_by IS NOT NULL {rest}", values)
        names = [column[0] for column in cursor.description]
        for found in cursor:
            row = dict(zip(names, found, strict=True))
            central = Measured.of(json_object(row["metrics"]))
            yield row | {
                "metrics": central.metrics,
                "num_test_samples": central.num_samples,
                "worker_metrics": restored(json_object(row["worker_metrics"])),
                "worker_medians": json_object(row["worker_medians"]),
                "settings": None if row["settings"] is None else json.loads(row["settings"]),
                "num_not_finite": json_object(row["num_not_finite"]),
                "privacy": json_object(row["privacy"]),
            }


def json_object(text: str | None) -> dict[str, Any]:
    """What a column of JSON holds; nothing is by far the most frequent."""
    return {} if text is None or text == "{}" else dict(json.loads(text))


def recorded_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The central metrics in a row from ``Ledger.round``, including ``num_samples``, as they are recorded elsewhere."""
    return Measured(row["metrics"], row.get("num_test_samples")).recorded()


def _base_of_0_1_0(weight: float, staleness: int) -> float:
    """The base weight of an update whose ledger row has none: an integer, discounted by its staleness."""
    return float(round(weight * math.sqrt(1 + staleness)))


def _kept_body(base_round: int, worker: str, file: str, blake3: str, keys: str) -> KeptBody:
    ids = tuple(bytes.fromhex(key) for key in keys.split(",") if key)
    return KeptBody(base_round=base_round, worker=worker, file=file, blake3=blake3, keys=ids)
