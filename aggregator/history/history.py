"""What a state directory records of its run, during the run or afterwards. Read only: nothing can come to harm.

The tables are those of ``aggregator/state/ledger/schema.py``; ``summary.json`` exists once the run is over.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors.torch import load_file
from torch import nn

from aggregator.history import charts
from aggregator.history.changes import changed_settings, scheduled_values
from aggregator.history.natural_order import natural_order
from aggregator.history.sites import Decided
from aggregator.state import FORMAT, IS_OF_MEASURED, Aim, Verdict, best_of, columns_of, settings_by_round, shifted
from broker.states import specs_of
from broker.wire import difference
from console import StateError
from learning import AT_SITES, IN_TRAINING, Direction, not_finite, rank, restored

_METRICS = ("metrics", "worker_metrics", "train_metrics", "eval_metrics")
_PLAIN = ("worker_medians", "num_not_finite", "privacy")
MEASURED = {AT_SITES: "eval_metrics", IN_TRAINING: "train_metrics"}
"""Prefix -> the column of updates with what workers measured there."""
LEDGER, STATISTICS, _SUMMARY, _MODELS = "ledger.sqlite", "statistics.json", "summary.json", "models"

_PAGE = 1000

_CONTRIBUTIONS = """
WITH scored AS (SELECT worker AS name, {score} AS score, max(id) FROM updates WHERE {score} IS NOT NULL GROUP BY worker)
SELECT worker, sum(verdict = 'folded') AS num_folded, sum(verdict = 'late') AS num_late,
    sum(verdict = 'duplicate') AS num_duplicate,
    sum(verdict = 'outvoted') AS num_outvoted, max(scored.score) AS last_score,
    sum(verdict = 'diverged') AS num_diverged, sum(verdict = 'unselected') AS num_unselected,
    sum((verdict = 'refused') * {num_messages}) AS num_refused,
    coalesce(sum(CASE WHEN verdict = 'folded' THEN num_samples END), 0) AS num_samples,
    coalesce(sum(num_bytes), 0) AS num_bytes, avg(CASE WHEN verdict = 'folded' THEN staleness END) AS mean_staleness,
    avg(train_s) AS mean_train_s, avg(queue_s) AS mean_queue_s, max(base_round) AS last_round,
    avg(CASE WHEN verdict IN ('folded', 'outvoted') THEN {norm} END) AS mean_norm, avg({cosine}) AS mean_cosine,
    max(received_at) AS last_seen
FROM updates LEFT JOIN scored ON scored.name IS worker GROUP BY worker ORDER BY num_samples DESC, worker LIMIT ?
"""
_NO_LIMIT = -1
_UNTOLD = {"num_samples": None, "train_s": None}
"""Of updates that say nothing of their sites: ledgers of before have 1 and 0 of them."""


class History:
    """The run in ``state``. Every query reads the disk, so answers follow a run that is going on.

    A StateError if there is no run, or a newer fedmq wrote it. ``with`` closes it.
    """

    def __init__(self, state: Path | str) -> None:
        self.state = Path(state)
        self._path = self.state / LEDGER
        if not self._path.exists():
            raise StateError(f"{self.state} has no {LEDGER}: no run has begun there")
        try:
            self._db = self._opened()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            columns = columns_of(self._db, "updates")
            self._num_messages = "num_messages" if "num_messages" in columns else "1"  # as ledgers of 0.1 mean it
            self._directions = {name: name if name in columns else "NULL" for name in ("norm", "cosine", "score")}
        except sqlite3.DatabaseError as error:
            raise StateError(f"{self._path} cannot be read as a ledger: {error}") from error
        if version == 0:
            self.close()
            raise StateError(f"{self.state}: the run has not begun yet")
        if version > FORMAT:
            self.close()
            raise StateError(f"{self._path} was written by a newer fedmq (format {version}); upgrade to read it")

    def _opened(self) -> sqlite3.Connection:
        uri = self._path.absolute().as_uri()
        try:
            return _connected(f"{uri}?mode=ro")
        except sqlite3.OperationalError:
            if Path(f"{self._path}-wal").exists() or _has_journal(self._path):
                raise
            return _connected(f"{uri}?immutable=1")  # for a read-only file system, where no lock can be shared

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "History":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"History({self.state.absolute().name!r}: run {self.facts.get('run_id')}, {len(self.rounds())} rounds)"

    # -- the run --------------------------------------------------------------------------------------------

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the run: ``run``, ``run_id``, ``queue``, ``task``, ``settings``…; empty before its first round."""
        return {key: json.loads(value) for key, value in self._db.execute("SELECT key, value FROM run")}

    @property
    def summary(self) -> dict[str, Any] | None:
        """``summary.json`` of the run; None while it goes on."""
        try:
            found: dict[str, Any] = json.loads((self.state / _SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        rounds = found.get("rounds", [])
        last = rounds[-1]["round"] if rounds else 0
        (closed,) = self._db.execute("SELECT max(round) FROM rounds WHERE closed_by IS NOT NULL").fetchone()
        return found if last == (closed or 0) else None  # not if it goes on with more rounds

    @property
    def statistics(self) -> dict[str, Any] | None:
        """``statistics.json`` of a statistics run; None before it is written, and in every other run."""
        try:
            found = json.loads((self.state / STATISTICS).read_text(encoding="utf-8"))
            return found if found["run_id"] == self.facts.get("run_id") else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def is_finished(self) -> bool:
        return self.summary is not None

    def version(self) -> tuple[int, ...]:
        """A value that differs whenever something has changed; cheap to get."""
        (changes,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(changes), *(_changed_at(self.state / name) for name in (_SUMMARY, STATISTICS))

    # -- rounds ---------------------------------------------------------------------------------------------

    def rounds(self) -> list[dict[str, Any]]:
        """The closed rounds, one flat row each, as ``pandas.DataFrame`` takes them.

        ``round``, ``opened_at`` and ``closed_at`` (Unix time), ``seconds``, ``closed_by``, the numbers of updates by
        verdict, ``num_samples`` (None where updates do not say, alone or together), ``model_sha256``; the central
        metrics by name (``accuracy``), and the workers' as ``eval.accuracy`` (of the model after this round, once
        workers have answered it) and ``train.loss``; with noise in the models, ``epsilon``: what all up to this one
        have cost.
        """
        return [_flat(row) for row in self.closed_rounds()]

    def closed_rounds(self) -> list[dict[str, Any]]:
        """The same, with ``metrics`` and ``worker_metrics`` as separate mappings.

        ``worker_medians`` has the lower and the upper middle value, with one vote a worker; these decide when a run
        ends and, unless ``--best-by weighted`` says otherwise, which model is the best.
        """
        rows = list(self._rows("SELECT * FROM rounds WHERE closed_by IS NOT NULL ORDER BY round"))
        if not self._samples_are_told:
            rows = [row | {"num_samples": None} for row in rows]
        return rows if IS_OF_MEASURED in columns_of(self._db, "rounds") else shifted(rows)

    def privacy(self) -> dict[str, Any]:
        """Who could see what in the last closed round, and what the models so far have cost; empty in other runs."""
        if "privacy" not in columns_of(self._db, "rounds"):
            return {}
        last = "SELECT privacy FROM rounds WHERE closed_by IS NOT NULL ORDER BY round DESC LIMIT 1"
        return next((row["privacy"] for row in self._rows(last)), {})

    @property
    def tells_of_sites(self) -> bool:
        """Whether updates say what their sites trained on, and how long; not where they are masked, or noised."""
        settings = self.facts.get("settings", {})
        return settings.get("privacy", "none") == "none" and settings.get("dp_noise") is None

    @property
    def _samples_are_told(self) -> bool:
        """Whether it is known of a round how many samples count: also the sum of masked updates may say so."""
        settings = self.facts.get("settings", {})
        is_noised = settings.get("dp_noise") is not None
        return self.tells_of_sites or (settings.get("weighting") == "samples" and not is_noised)

    def num_closed(self) -> int:
        """How many rounds are closed."""
        (number,) = self._db.execute("SELECT count(*) FROM rounds WHERE closed_by IS NOT NULL").fetchone()
        return int(number)

    def changes(self, *, most: int = 100) -> list[dict[str, Any]]:
        """The newest changes of settings and commands that were done: ``round`` and ``text``, by round."""
        found: list[dict[str, Any]] = []
        if "settings" in columns_of(self._db, "rounds"):
            recorded = "SELECT round, settings FROM rounds WHERE closed_by IS NOT NULL AND settings IS NOT NULL"
            found += changed_settings(self._db.execute(f"{recorded} ORDER BY round"))
        if columns_of(self._db, "commands"):
            done = (
                "SELECT round, 'fl-run ' || text AS text FROM commands WHERE is_accepted ORDER BY number DESC LIMIT ?"
            )
            found += list(self._rows(done, most))[::-1]
        return sorted(found, key=lambda change: change["round"])[-most:]

    def open_round(self) -> dict[str, Any] | None:
        """The open round: ``round``, ``opened_at``, and how many updates are committed so far; None if none is open."""
        row = next(self._rows("SELECT round, opened_at FROM rounds WHERE closed_by IS NULL ORDER BY round"), None)
        if row is None or self.is_finished:
            return None
        counts = dict(
            self._db.execute(
                f"SELECT verdict, sum({self._num_messages}) FROM updates WHERE round = ? GROUP BY verdict",
                (row["round"],),
            )
        )
        return row | {f"num_{verdict}": counts.get(verdict, 0) for verdict in ("folded", "late", "refused")}

    @property
    def aim(self) -> Aim:
        """What the run should become good at, as its settings have it."""
        settings = self.facts.get("settings", {})
        direction = settings.get("stop_direction")
        direction = None if direction is None else Direction(direction)
        return Aim(settings.get("stop_metric"), direction, settings.get("best_by", "median"))

    def settings_by_round(self) -> list[dict[str, Any]]:
        """With which settings rounds ran: ``from_round`` and ``settings``, all of them first, then what was new."""
        if "settings" not in columns_of(self._db, "rounds"):
            return []
        query = "SELECT round, settings FROM rounds WHERE settings IS NOT NULL AND closed_by IS NOT NULL ORDER BY round"
        return settings_by_round(row | {"settings": json.loads(row["settings"])} for row in self._rows(query))

    def scheduled(self) -> dict[str, dict[int, float]]:
        """Setting -> round -> its value, of the settings that followed a schedule in any closed round."""
        numbers = self._db.execute("SELECT round FROM rounds WHERE closed_by IS NOT NULL ORDER BY round")
        return scheduled_values((number for (number,) in numbers), self.settings_by_round())

    def commands(self) -> list[dict[str, Any]]:
        """What people asked of the run (``fl-run``): ``received_at``, ``round``, ``sender``, ``text``, ``result``…"""
        if not columns_of(self._db, "commands"):
            return []
        query = "SELECT received_at, round, sender, text, is_accepted, result FROM commands ORDER BY number"
        return [row | {"is_accepted": bool(row["is_accepted"])} for row in self._rows(query)]

    def best(self) -> tuple[str, int, float] | None:
        """(metric, round, value) of the best round so far; None if nothing was measured."""
        return best_of(self.closed_rounds(), self.aim)

    # -- updates --------------------------------------------------------------------------------------------

    def updates(self, *, since_round: int = 0) -> Iterator[dict[str, Any]]:
        """The updates decided in round ``since_round`` or later, in the order of the decisions.

        ``num_samples`` and ``train_s`` are None where they say nothing of a single site. Page by page, so that whoever
        takes them slowly, such as a browser, holds up nobody who writes.
        """
        untold: dict[str, Any] = {} if self.tells_of_sites else _UNTOLD
        last = -1
        while True:
            query = "SELECT * FROM updates WHERE round >= ? AND id > ? ORDER BY id LIMIT ?"
            page = list(self._rows(query, since_round, last, _PAGE))
            yield from (row | untold for row in page)
            if len(page) < _PAGE:
                return
            last = page[-1]["id"]

    def update_columns(self) -> list[str]:
        """The columns of an update, then those of each metric that any worker measured; none if there is no update."""
        first = next(self.updates(), None)
        if first is None:
            return []
        plain = [name for name in first if name not in MEASURED.values()]
        return plain + [f"{prefix}{name}" for prefix, column in MEASURED.items() for name in self._names_in(column)]

    def _names_in(self, column: str) -> list[str]:
        distinct = f"SELECT DISTINCT {column} FROM updates WHERE json_valid({column})"
        names = self._db.execute(f"SELECT DISTINCT key FROM ({distinct}) AS measured, json_each(measured.{column})")
        return sorted((str(name) for (name,) in names), key=lambda name: (rank(name), name))

    def num_decided(self) -> int:
        """About how many updates the ledger has; costs nothing to ask."""
        (number,) = self._db.execute("SELECT coalesce(max(id), 0) FROM updates").fetchone()
        return int(number)

    def trained(self, *, since_round: int, most: int) -> list[dict[str, Any]]:
        """The newest of the updates decided in round ``since_round`` or later that say how long they trained."""
        if not self.tells_of_sites:
            return []
        newest = "SELECT * FROM updates WHERE round >= ? AND train_s IS NOT NULL ORDER BY id DESC LIMIT ?"
        return list(self._rows(newest, since_round, most))[::-1]

    def decided(self, *, since_round: int, metric: str | None = None) -> Iterator[Decided]:
        """The updates decided in round ``since_round`` or later, each with what its worker measured as ``metric``."""
        measured = "NULL"
        if metric is not None and '"' not in metric:
            measured = "CASE WHEN json_valid(eval_metrics) THEN json_extract(eval_metrics, '$.\"' || ? || '\"') END"
        values = (since_round,) if measured == "NULL" else (metric, since_round)
        query = f"SELECT round, base_round, worker, verdict, {measured} FROM updates WHERE round >= ?"
        for number, base, worker, verdict, value in self._db.execute(query, values):
            model = None if base is None else base - 1
            yield number, model, worker, verdict, None if value is None else float(value)

    def refused(self, *, most: int = 100) -> list[dict[str, Any]]:
        """The newest refused updates, with their reasons; a row with ``num_messages`` above 1 counts that many."""
        return self._with_reasons(Verdict.REFUSED, most)

    def without_update(self, *, most: int = 100) -> list[dict[str, Any]]:
        """The newest answers of workers that had no update to give, with their reasons.

        Their training ended in NaN or infinity, or their site sits a statistics run out; the verdict of both is
        ``diverged``.
        """
        return self._with_reasons(Verdict.DIVERGED, most)

    def _with_reasons(self, verdict: Verdict, most: int) -> list[dict[str, Any]]:
        return list(
            self._rows(
                f"SELECT received_at, round, worker, num_bytes, {self._num_messages} AS num_messages, reason"
                " FROM updates WHERE verdict = ?"
                " ORDER BY id DESC LIMIT ?",
                verdict,
                most,
            )
        )

    def totals(self) -> dict[str, dict[str, int]]:
        """Closed ``rounds`` by what closed them; ``updates`` and ``bytes`` received by verdict."""
        rounds = "SELECT closed_by, count(*) FROM rounds WHERE closed_by IS NOT NULL GROUP BY closed_by"
        num = self._num_messages
        updates = f"SELECT verdict, sum({num}), coalesce(sum(num_bytes), 0) FROM updates GROUP BY verdict"
        by_verdict = self._db.execute(updates).fetchall()
        return {
            "rounds": dict(self._db.execute(rounds)),
            "updates": {verdict: number for verdict, number, _ in by_verdict},
            "bytes": {verdict: num_bytes for verdict, _, num_bytes in by_verdict},
        }

    def contributions(self, *, most: int | None = None) -> list[dict[str, Any]]:
        """One row a worker: updates by verdict, samples, bytes, mean staleness, mean seconds, when last seen.

        ``num_outvoted`` says how often a robust rule left an update of it out, ``last_score`` what the rule made of its
        newest one (see docs/algorithms.md; None without such a rule).

        Also ``mean_norm`` of its updates, and ``mean_cosine`` of the angle between each and the mean of all (1: the
        same direction; below 0: against it). None where that is not known, as in a run with shards.

        ``num_samples`` and ``mean_train_s`` are None where updates say nothing of a single site.

        In the order of their names, worker-2 before worker-10; with ``most``, only so many workers, those with the most
        samples.
        """
        query = _CONTRIBUTIONS.format(num_messages=self._num_messages, **self._directions)
        found = self._rows(query, _NO_LIMIT if most is None else most)
        if not self.tells_of_sites:
            found = (row | {"num_samples": None, "mean_train_s": None} for row in found)  # earlier ones say 1 and 0
        return sorted(found, key=lambda row: natural_order(row["worker"]))

    def plot(self) -> Any:
        """The learning curves as one ``plotly.graph_objects.Figure``, which a notebook shows by itself."""
        from plotly.subplots import make_subplots  # costs half a second and 50 MB, only for those who plot

        curves = charts.learning_curves(self.rounds())
        figure = make_subplots(rows=1, cols=max(1, len(curves)), subplot_titles=list(curves))
        for column, curve in enumerate(curves.values(), start=1):
            for series in curve["series"]:
                line = {"type": "scatter", "x": series["x"], "y": series["y"], "line": {"color": series["colour"]}}
                named = {"name": series["name"], "legendgroup": series["name"], "showlegend": column == 1}
                figure.add_trace(line | named, row=1, col=column)
        return figure.update_xaxes(title_text="round").update_layout(legend={"orientation": "h"})

    # -- models ---------------------------------------------------------------------------------------------

    def models(self) -> dict[str, Path]:
        """The models that are kept, by name: ``last``, ``best``, and ``round-00012`` for the one after round 12."""
        return {path.stem: path for path in sorted((self.state / _MODELS).glob("[!.]*.safetensors"))}

    def model_path(self, which: int | str = "last") -> Path:
        """The path of the model after a round, ``last`` or ``best``; else a StateError that names those kept."""
        name = f"round-{which:05d}" if isinstance(which, int) else which
        found = self.models()
        if name not in found:
            there = ", ".join(found) or "none yet"
            raise StateError(f"{self.state} keeps no model '{name}'; it has {there} (--keep-every keeps more)")
        return found[name]

    def model_round(self, which: int | str = "last") -> int:
        """The round after which the model that ``model_path`` finds is the global one."""
        if isinstance(which, int):
            return which
        path = self.model_path(which)
        return next(
            (
                int(name.removeprefix("round-"))
                for name, other in self.models().items()
                if name.startswith("round-") and other.samefile(path)
            ),
            0,
        )

    def load_model(self, module: nn.Module, which: int | str = "last") -> nn.Module:
        """Loads the model after a round, ``last`` or ``best``, into ``module``, and returns the module.

        Tensors that did not travel (``--shared``) stay as they are. A StateError if the two do not fit.
        """
        path = self.model_path(which)
        state = load_file(path)
        own = {name: tensor for name, tensor in module.state_dict().items() if name in state}
        misfit = difference(specs_of(own), specs_of(state))
        if misfit:
            raise StateError(f"{path} {misfit}; is it the model of another task?")
        module.load_state_dict(state, strict=False)
        return module

    def _rows(self, query: str, *values: object) -> Iterator[dict[str, Any]]:
        cursor = self._db.execute(query, values)
        names = [column[0] for column in cursor.description]
        for found in cursor:
            row: dict[str, Any] = dict(zip(names, found, strict=True))
            yield (
                row
                | {key: restored(json.loads(row[key] or "{}")) for key in _METRICS if key in row}
                | {key: json.loads(row[key] or "{}") for key in _PLAIN if key in row}
            )


def _has_journal(path: Path) -> bool:
    """Whether a transaction was begun and not ended; only who may write can undo it."""
    try:
        return Path(f"{path}-journal").stat().st_size > 0
    except OSError:
        return False


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _connected(uri: str) -> sqlite3.Connection:
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        database.close()
        raise
    return database


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    others = {key: value for key, value in row.items() if key not in _METRICS + _PLAIN}
    num_not_finite = len(not_finite(row["metrics"])) + sum((row.get("num_not_finite") or {}).values())
    noise = (row.get("privacy") or {}).get("noise")
    spent = {} if noise is None else {"epsilon": noise["epsilon"]}
    return {**row["metrics"], **row["worker_metrics"], **others, **spent, "num_not_finite": num_not_finite}
