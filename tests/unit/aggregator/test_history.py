"""What a state directory tells of its run, and the report of one that is over."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn
from unit.aggregator.embedded_run import EmbeddedRun, StateTask

from aggregator import History
from aggregator.history.charts import learning_curves
from aggregator.history.report import report, write_report
from broker.states.tensors import State
from console.errors import StateError

ZERO: State = {"w": torch.zeros(2)}
ONE: State = {"w": torch.ones(2)}
FORGED = "<script>alert(1)</script>"
Begin = Callable[..., EmbeddedRun]


def two_rounds(begin: Begin, **settings: object) -> EmbeddedRun:
    run = begin(StateTask(ZERO, lambda model: {"accuracy": 0.5, "num_samples": 9}), rounds=2, **settings)
    for _ in range(2):
        run.fold_all([("a", ONE), ("b", ONE)], train_metrics={"loss": 0.25}, eval_metrics={"accuracy": 0.75})
    return run


def forge(folder: Path) -> None:
    """As if a worker of that name had got through: the page must not rely on what the wire lets in."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as database, database:
        database.execute("UPDATE updates SET worker = ? WHERE worker = 'a'", (FORGED,))
        database.execute(
            "INSERT INTO updates (received_at, round, verdict, reason, worker) VALUES (1.0, 2, 'refused', ?, ?)",
            (f"no tensor {FORGED}", FORGED),
        )


def test_rounds_are_flat_rows_that_a_table_takes(begin: Begin) -> None:
    run = two_rounds(begin)
    with History(run.folder) as history:
        rows = history.rounds()
        assert [(row["round"], row["accuracy"], row.get("eval.accuracy"), row["train.loss"]) for row in rows] == [
            (1, 0.5, 0.75, 0.25),
            (2, 0.5, None, 0.25),  # nobody has measured the last model
        ]
        assert [(row["num_samples"], row["num_folded"], row["closed_by"]) for row in rows] == [(2, 2, "quorum")] * 2
        assert not any(isinstance(value, dict | list) for row in rows for value in row.values())
        assert history.is_finished
        assert history.open_round() is None


def test_a_run_that_goes_on_is_followed(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=2)
    with History(run.folder) as history:
        before = history.version()
        assert (history.rounds(), history.is_finished) == ([], False)
        assert history.facts["settings"]["rounds"] == 2
        assert "broker" not in history.facts["settings"]
        run.fold_all([("a", ONE), ("b", ONE)])
        assert history.version() != before
        assert [row["round"] for row in history.rounds()] == [1]
        assert (history.open_round() or {})["round"] == 2
        assert history.summary is None


def test_a_finished_run_that_goes_on_with_more_rounds_is_not_finished(begin: Begin) -> None:
    run = two_rounds(begin)
    again = begin(run.task, rounds=3, broker=run.broker)
    again.fold_all([("a", ONE)])
    again.aggregator.finish()
    with History(run.folder) as history:
        assert history.is_finished  # until its third round is closed
        again.fold_all([("b", ONE)])
        assert history.is_finished
        assert [row["round"] for row in history.rounds()] == [1, 2, 3]


def test_contributions_are_told_for_each_worker(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=3)
    run.fold_all([("a", ONE), ("b", ONE)], num_samples=5)
    run.send("c", {"w": torch.full((2,), float("nan"))})
    run.settle()
    run.aggregator.finish()
    with History(run.folder) as history:
        rows = {row["worker"]: row for row in history.contributions()}
        assert {name: (row["num_folded"], row["num_samples"], row["num_refused"]) for name, row in rows.items()} == {
            "a": (1, 5, 0),
            "b": (1, 5, 0),
            "c": (0, 0, 1),
        }
        (refused,) = history.refused()
        assert refused["worker"] == "c"
        assert "NaN" in refused["reason"]


def test_a_ledger_on_a_file_system_that_is_read_only_is_read_as_it_lies(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = two_rounds(begin)
    run.aggregator.close()
    connect = sqlite3.connect

    def cannot_share(database: str, **options: object) -> sqlite3.Connection:
        if "immutable" not in database:  # what SQLite says there of a file in write-ahead mode
            raise sqlite3.OperationalError("unable to open database file")
        return connect(database, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", cannot_share)
    with History(run.folder) as history:
        assert len(history.rounds()) == 2


def test_no_run_and_no_ledger_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no run has begun"):
        History(tmp_path)
    (tmp_path / "ledger.sqlite").write_text("not a database, but long enough to be taken for one" * 10)
    with pytest.raises(StateError, match="cannot be read as a ledger"):
        History(tmp_path)


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="newer fedmq"):
        History(tmp_path)


def test_the_model_after_a_round_is_loaded_into_a_module(begin: Begin) -> None:
    class Own(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.full((size,), 9.0))

    run = two_rounds(begin, keep_every=1)
    with History(run.folder) as history:
        assert history.load_model(Own(2)).w.tolist() == [2.0, 2.0]  # type: ignore[union-attr]
        assert history.load_model(Own(2), 1).w.tolist() == [1.0, 1.0]  # type: ignore[union-attr]
        with pytest.raises(StateError, match=r"shape \[2\], not \[3\]"):
            history.load_model(Own(3))
        with pytest.raises(StateError, match="tensor 'w' that the model does not have"):
            history.load_model(nn.Linear(1, 1))
        with pytest.raises(StateError, match="keeps no model 'round-00007'; it has"):
            history.load_model(Own(2), 7)


def test_curves_show_the_model_centrally_at_the_sites_and_in_training(begin: Begin) -> None:
    run = two_rounds(begin)
    with History(run.folder) as history:
        curves = learning_curves(history.rounds())
    assert list(curves) == ["accuracy", "loss"]
    assert [series["y"] for series in curves["accuracy"]["series"]] == [[0.5, 0.5], [0.75]]
    assert [series["y"] for series in curves["loss"]["series"]] == [[0.25, 0.25]]


def test_curves_stay_small_however_long_a_run_was_and_keep_all_of_its_end() -> None:
    rounds = [{"round": number, "accuracy": 0.5, "closed_at": 1e9 + number} for number in range(1, 100_001)]
    (series,) = learning_curves(rounds)["accuracy"]["series"]
    assert len(series["x"]) <= 1000
    assert (series["x"][0], series["x"][-300:]) == (1, list(range(99_701, 100_001)))


def test_a_metric_that_is_not_a_number_is_a_gap_that_json_knows() -> None:
    rounds = [{"round": number, "loss": value} for number, value in enumerate((0.5, float("nan"), float("inf")), 1)]
    (series,) = learning_curves(rounds)["loss"]["series"]
    assert series["y"] == [0.5, None, None]


def test_a_notebook_gets_the_curves_as_a_plotly_figure(begin: Begin) -> None:
    run = two_rounds(begin)
    with History(run.folder) as history:
        shown = {(trace.name, tuple(trace.y)) for trace in history.plot().data}
    assert ("global model, central test data", (0.5, 0.5)) in shown
    assert ("while training at the sites", (0.25, 0.25)) in shown


def test_the_report_is_one_file_with_everything_and_names_are_text_in_it(begin: Begin) -> None:
    run = two_rounds(begin)
    forge(run.folder)
    path = write_report(run.folder)
    page = path.read_text(encoding="utf-8")
    with History(run.folder) as history:
        assert page == report(history)
        digests = [row["model_sha256"] for row in history.rounds()]
    assert FORGED not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert all(digest in page for digest in digests)
    assert not re.search(r"(src|href)=", page)
    assert len(page) < 60_000
    assert str(run.folder) not in page
    assert {left.name for left in run.folder.iterdir()} >= {"report.html", "summary.json"}
    assert not list(run.folder.glob(".report*"))


def test_a_report_of_no_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no run has begun"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
