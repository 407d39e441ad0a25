"""What a round's end asks of the ledger does not grow with the number of rounds gone by."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

WORKERS = ("a", "b", "c")
DELTA = state_of(w=[0.001, 0.002])
METRICS = {"eval_metrics": {"accuracy": 0.5, "loss": 0.2}, "train_metrics": {"loss": 0.3}}
KINDS: dict[str, dict[str, Any]] = {
    "nothing else": {},
    "a metric to end on": {"stop_metric": "eval.accuracy", "patience": 100_000},
    "a correction": {"correction": "feddyn"},
    "noise": {"dp_noise": 500.0, "dp_epsilon": 8.0, "dp_delta": 1e-5, "dp_clip": "1.0", "weighting": "uniform"},
}
FEW, MANY = 100, 1000
"""Of the last 50 some is asked."""


def make(folder: Path, kind: str) -> EmbeddedRun:
    task = StateTask(state_of(w=[0.0, 0.0]), lambda model: {"accuracy": 0.4})
    return EmbeddedRun.make(folder, task, rounds=10**6, quorum=str(len(WORKERS)), **KINDS[kind])


def close_a_round(run: EmbeddedRun, kind: str) -> None:
    number = run.round
    run.fold_all([(worker, DELTA) for worker in WORKERS], **({} if kind == "noise" else METRICS))
    assert run.round == number + 1, run.reasons


def steps_of_a_close(run: EmbeddedRun, kind: str) -> int:
    """Instructions of SQLite's machine: each row that is read takes some. The first rounds find out what is known."""
    for _ in range(3):
        close_a_round(run, kind)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    database = run.aggregator._ledger._db
    database.set_progress_handler(count, 1)
    close_a_round(run, kind)
    database.set_progress_handler(None, 0)
    return steps


def pretend_more_rounds(folder: Path, *, until: int) -> None:
    """Repeats the last closed round in the ledger, and its model on the disk, until so many are closed."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as database, database:
        (last,) = database.execute("SELECT max(round) FROM rounds WHERE closed_by IS NOT NULL").fetchone()
        database.execute("DELETE FROM rounds WHERE round > ?", (last,))
        for table in ("rounds", "updates", "releases", "companions"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})") if row[1] != "id"]
            if not columns:
                continue  # only runs with companions have that table
            shifted = [f"{name} + :by" if name in ("round", "base_round") else name for name in columns]
            database.executemany(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(shifted)} FROM {table}"
                " WHERE round = :last",
                [{"by": number - last, "last": last} for number in range(last + 1, until + 1)],
            )
    models = folder / "models"
    for number in (until - 1, until):
        (models / f"round-{number:05d}.safetensors").hardlink_to(models / f"round-{last:05d}.safetensors")
        for path in models.glob(f"round-{last:05d}.*.safetensors"):
            path.with_name(path.name.replace(f"{last:05d}", f"{number:05d}")).hardlink_to(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_close_after_many_rounds_asks_the_ledger_for_as_much_as_after_few(kind: str, tmp_path: Path) -> None:
    run, steps = make(tmp_path, kind).start(), list[int]()
    close_a_round(run, kind)
    for number in (FEW, MANY):
        run.stop()
        pretend_more_rounds(tmp_path, until=number)
        run = make(tmp_path, kind).start()
        steps.append(steps_of_a_close(run, kind))
    run.stop()
    assert run.closed("max(round)") == [(MANY + 4,)]
    assert steps[1] <= steps[0] + 20
