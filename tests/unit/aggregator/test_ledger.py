"""The ledger: what it says has happened, what it does not say has not."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest

from aggregator.history import History
from aggregator.state.ledger import (
    FORMAT,
    Accumulated,
    ClosedBy,
    KeptBody,
    Ledger,
    RoundResult,
    UpdateRow,
    Verdict,
    recorded_metrics,
)
from console.errors import LeadershipLost, StateError
from learning.metrics import Measured

ACCUMULATED = Accumulated(file="sum-00001-1.safetensors", sha256="00", bound=1.5, num_folded=1, num_samples=10)
BASE = {"base_round": 0, "base_sha256": "00"}
RESULT = RoundResult(
    closed_by=ClosedBy.QUORUM,
    closed_at=2.0,
    seconds=1.0,
    num_samples=10,
    measured=Measured({"loss": 0.5}, 50.0),
    model_sha256="ab",
)


def row(worker: str = "site-a", verdict: Verdict = Verdict.FOLDED, **changes: object) -> UpdateRow:
    base = UpdateRow(
        received_at=1.0,
        round=1,
        verdict=verdict,
        worker=worker,
        instance="00",
        base_round=1,
        staleness=0,
        num_samples=10,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.sqlite")
    opened.record(BASE)
    yield opened
    opened.close()


def reopened(ledger: Ledger) -> Ledger:
    ledger.close()
    return Ledger(ledger._path)


def verdicts(ledger: Ledger) -> list[str]:
    return [verdict for (verdict,) in ledger._db.execute("SELECT verdict FROM updates ORDER BY id")]


def open_rounds(ledger: Ledger) -> list[int]:
    return [number for (number,) in ledger._db.execute("SELECT round FROM rounds WHERE closed_by IS NULL")]


def nothing() -> None:
    """No model to put in its place."""


def test_a_new_ledger_knows_nothing(ledger: Ledger) -> None:
    assert ledger.last_closed_round() == 0
    assert ledger.model_sha256(0) == "00"
    assert ledger.accumulated() is None
    assert list(ledger.rounds()) == []


def test_facts_of_any_json_type_come_back_after_a_restart(ledger: Ledger) -> None:
    facts = {"run": "demo", "seed": 2**62, "nothing": None, "list": [1, 2.5]}
    ledger.record(facts)
    again = reopened(ledger)
    assert again.facts() == BASE | facts
    again.record({"run": "other"})
    assert again.facts() == BASE | facts | {"run": "other"}
    again.close()


def test_a_commit_holds_its_updates_and_its_sum_after_a_restart(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    ledger.commit([row()], ACCUMULATED)
    again = reopened(ledger)
    assert again.accumulated() == ACCUMULATED
    assert again.is_folded(1, "site-a") == "00"
    assert again.is_folded(1, "site-b") is None
    assert again.is_folded(2, "site-a") is None
    again.close()


def test_an_update_folded_twice_is_refused_and_nothing_of_that_commit_happens(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    ledger.commit([row()], ACCUMULATED)
    with pytest.raises(StateError, match="UNIQUE"):
        ledger.commit([row("site-b"), row()], replace(ACCUMULATED, num_folded=3))
    assert verdicts(ledger) == ["folded"]
    assert ledger.accumulated() == ACCUMULATED
    ledger.commit([row("site-b")], replace(ACCUMULATED, num_folded=2))
    assert verdicts(ledger) == ["folded", "folded"]


def test_a_commit_that_breaks_in_the_middle_did_not_happen(ledger: Ledger) -> None:
    def rows() -> Iterator[UpdateRow]:
        yield row()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.commit(rows(), ACCUMULATED)
    assert verdicts(ledger) == []
    assert ledger.accumulated() is None
    ledger.commit([row()], ACCUMULATED)


def test_a_round_that_breaks_while_it_closes_is_still_open(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    ledger.commit([row()], ACCUMULATED)
    with pytest.raises(StateError):
        ledger.close_round(1, [row()], RESULT, next_round=2, install=nothing)
    assert open_rounds(ledger) == [1]
    assert ledger.accumulated() == ACCUMULATED
    assert list(ledger.rounds()) == []


def test_no_update_that_comes_is_looked_up_in_all_there_are(ledger: Ledger) -> None:
    asked: list[str] = []
    ledger._db.set_trace_callback(asked.append)
    ledger.is_folded(1, "a")
    ledger.is_answered(1, "a", Verdict.DIVERGED)
    ledger._db.set_trace_callback(None)
    plans = [row[-1] for query in asked for row in ledger._db.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert len(plans) == 2
    assert all(plan.startswith("SEARCH updates USING INDEX") for plan in plans), plans


def test_what_is_asked_again_and_again_is_what_is_recorded_also_after_a_transaction_that_broke(ledger: Ledger) -> None:
    ledger.claim()
    ledger.record({"patience_s": 1.0})
    assert [ledger.patience_s(), ledger.patience_s()] == [1.0, 1.0]

    def break_off() -> None:
        with ledger.transaction():
            ledger._set({"patience_s": 2.0})
            assert ledger.patience_s() == 2.0
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert ledger.patience_s() == 1.0
    ledger.record({"patience_s": 3.0})
    assert ledger.patience_s() == 3.0


@pytest.mark.parametrize("value", [7, "seven", True, None, 7.5, [7], {"of": 7}])
def test_a_fact_is_what_was_written_last_and_not_what_a_broken_transaction_wrote(ledger: Ledger, value: object) -> None:
    ledger.claim()
    ledger.record({"fact": value})
    assert ledger._fact("fact") == ledger.facts()["fact"] == value

    def break_off() -> None:
        with ledger.transaction():
            ledger._set({"fact": 8})
            ledger._set({"fact": 9})
            assert ledger._fact("fact") == 9
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    ledger.record({"other": 1})
    assert ledger._fact("fact") == ledger.facts()["fact"] == value


def test_what_this_aggregator_wrote_is_not_asked_for(ledger: Ledger) -> None:
    ledger.claim()
    ledger.commit([row()], None, num_present=3, num_chosen=2)
    asked: list[str] = []
    ledger._db.set_trace_callback(asked.append)
    assert (ledger.num_present(), ledger.num_chosen()) == (3, 2)
    ledger._db.set_trace_callback(None)
    assert asked == []


def test_a_closed_round_that_was_asked_for_shows_what_is_measured_of_it_later(ledger: Ledger) -> None:
    ledger.claim()
    ledger.open_round(1, now=1.0)
    ledger.close_round(1, [row()], RESULT, next_round=2, install=lambda: None)
    before = ledger.round(1)
    before["num_samples"] = -1  # which is the caller's own
    assert (ledger.round(1)["num_samples"], ledger.round(1)["worker_metrics"]) == (10, {})
    ledger.close_evaluation(1, [row(round=2, base_round=2, verdict=Verdict.MEASURED, eval_metrics={"loss": 0.25})])
    assert ledger.round(1)["worker_metrics"] == {"eval.loss": 0.25}


def test_other_verdicts_may_repeat(ledger: Ledger) -> None:
    for verdict in (Verdict.LATE, Verdict.DUPLICATE, Verdict.REFUSED, Verdict.ABANDONED):
        ledger.commit([row(verdict=verdict), row(verdict=verdict)], None)
    assert len(verdicts(ledger)) == 8


def test_the_same_worker_may_be_folded_for_another_base_round(ledger: Ledger) -> None:
    ledger.commit([row(), row(base_round=2)], ACCUMULATED)
    assert verdicts(ledger) == ["folded", "folded"]


def test_a_closed_round_counts_its_updates_and_the_next_is_open(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    rows = [
        row(train_metrics={"loss": 1.0}, eval_metrics={"accuracy": 0.5, "num_samples": 30.0}),
        row("site-b", num_samples=30, train_metrics={"loss": 2.0}, eval_metrics={"accuracy": 1.0, "num_samples": 10.0}),
        row("site-c", verdict=Verdict.LATE, train_metrics={"loss": 9.0}),
        row("site-c", verdict=Verdict.REFUSED),
        row("site-b", verdict=Verdict.DUPLICATE),
    ]
    ledger.commit(rows[:1], ACCUMULATED)
    ledger.close_round(1, rows[1:], RESULT, next_round=2, install=nothing)

    closed = ledger.round(1)
    assert (closed["num_folded"], closed["num_late"], closed["num_refused"], closed["num_duplicate"]) == (2, 1, 1, 1)
    assert (closed["metrics"], closed["num_test_samples"]) == ({"loss": 0.5}, 50.0)
    assert recorded_metrics(closed) == {"num_samples": 50.0, "loss": 0.5}
    assert closed["worker_metrics"] == {"train.loss": 1.75}
    assert closed["worker_medians"] == {"train.loss": [1.0, 2.0]}
    assert ledger.facts()["base_metrics"] == {"eval.accuracy": 0.625}  # what they measured was the first model
    assert ledger.model_sha256(1) == "ab"
    assert (ledger.last_closed_round(), open_rounds(ledger), ledger.accumulated()) == (1, [2], None)


def test_a_row_may_count_many_messages(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    ledger.close_round(1, [row(verdict=Verdict.REFUSED, num_messages=980)], RESULT, next_round=2, install=nothing)
    assert ledger.round(1)["num_refused"] == 980


def test_a_ledger_of_an_earlier_version_goes_on_and_can_be_read_before_it_does(tmp_path: Path) -> None:
    """It lacks the columns that count dropped messages and hold the workers' medians."""
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.record({"base_round": 0, "run": "r"})
        ledger.open_round(1, now=0.5)
        ledger.close_round(1, [row(verdict=Verdict.REFUSED)], RESULT, next_round=2, install=nothing)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE updates DROP COLUMN num_messages")
        database.execute("ALTER TABLE rounds DROP COLUMN worker_medians")
    with History(tmp_path) as history:
        assert history.totals()["updates"] == {"refused": 1}
        assert history.refused()[0]["num_messages"] == 1
        assert history.contributions()[0]["num_refused"] == 1
    with closing(Ledger(path)) as ledger:
        assert ledger.round(1)["worker_medians"] == {}
        ledger.close_round(
            2, [row(round=2, verdict=Verdict.REFUSED, num_messages=7)], RESULT, next_round=3, install=nothing
        )
        assert [each["num_refused"] for each in ledger.rounds()] == [1, 7]


def test_the_median_number_of_samples_is_that_of_the_last_round_with_updates(ledger: Ledger) -> None:
    assert ledger.median_samples(before=1) is None
    rows = [row(name, num_samples=number) for name, number in (("a", 5), ("b", 9), ("c", 1000), ("d", 7))]
    ledger.commit([*rows, row("e", verdict=Verdict.LATE, num_samples=1)], ACCUMULATED)
    assert ledger.median_samples(before=1) is None
    assert ledger.median_samples(before=2) == ledger.median_samples(before=5) == 7


def test_an_abandoned_round_folded_nothing(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    ledger.commit([row()], ACCUMULATED)
    ledger.close_round(1, [row("site-b")], replace(RESULT, closed_by=ClosedBy.ABANDONED), next_round=2, install=nothing)
    assert verdicts(ledger) == ["abandoned", "abandoned"]
    assert ledger.round(1)["num_folded"] == 0
    assert ledger.is_folded(1, "site-a") is None


def test_a_round_whose_model_cannot_be_put_in_its_place_is_still_open(ledger: Ledger) -> None:
    def install() -> None:
        raise StateError("disk full")

    ledger.open_round(1, now=0.5)
    with pytest.raises(StateError, match="disk full"):
        ledger.close_round(1, [row()], RESULT, next_round=2, install=install)
    assert open_rounds(ledger) == [1]
    assert verdicts(ledger) == []


def test_a_ledger_that_another_aggregator_claimed_takes_nothing_more(ledger: Ledger) -> None:
    assert ledger.claim() == 1
    successor = Ledger(ledger._path)
    assert successor.claim() == 2
    with pytest.raises(LeadershipLost):
        ledger.commit([row()], ACCUMULATED)
    successor.commit([row()], ACCUMULATED)
    assert verdicts(successor) == ["folded"]
    successor.close()


def test_a_round_that_is_undone_is_open_again_with_nothing_folded(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    ledger.close_round(1, [row()], RESULT, next_round=2, install=nothing)
    ledger.close_round(2, [row(round=2, base_round=2)], RESULT, next_round=3, install=nothing)
    ledger.commit([row(round=3, base_round=3)], ACCUMULATED)
    ledger.undo_from(2)
    assert (ledger.last_closed_round(), open_rounds(ledger), ledger.accumulated()) == (1, [2], None)
    assert verdicts(ledger) == ["folded", "undone", "undone"]
    assert ledger.is_folded(2, "site-a") is None


def test_an_update_that_is_withdrawn_is_not_folded_and_may_be_again(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    kept = KeptBody(base_round=1, worker="site-a", file="1-00001-0.body", blake3="00", keys=(b"12345678", b"abcdefgh"))
    ledger.commit([row(weight=10.0), row("site-b", weight=2.5)], ACCUMULATED, kept=[kept])
    folded = ledger.folded(1)
    assert [(update.worker, update.weight, update.kept) for update in folded] == [
        ("site-a", 10.0, kept),
        ("site-b", 2.5, None),
    ]
    assert [update.keys for update in folded] == [kept.keys, ()]
    assert ledger.kept_files() == {"1-00001-0.body"}
    ledger.withdraw({folded[0]: "has left"}, None)
    assert verdicts(ledger) == ["withdrawn", "folded"]
    assert (ledger.accumulated(), ledger.kept_files(), ledger.is_folded(1, "site-a")) == (None, set(), None)
    assert ledger.workers() == {"site-a": True, "site-b": True}
    assert ledger.answered(1) == ["site-b"]
    ledger.commit([row()], ACCUMULATED, kept=[kept])
    assert ledger.is_folded(1, "site-a") == "00"
    ledger.close_round(1, [], RESULT, next_round=2, install=nothing)
    assert (ledger.kept_files(), ledger.round(1)["num_folded"]) == (set(), 2)


def test_bodies_of_a_round_that_is_undone_are_kept_no_more(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    ledger.commit([row()], ACCUMULATED, kept=[KeptBody(base_round=1, worker="site-a", file="f", blake3="00")])
    ledger.undo_from(1)
    assert (ledger.kept_files(), ledger.folded(1)) == (set(), [])


def test_a_ledger_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    database.close()
    with pytest.raises(StateError, match="newer fedmq"):
        Ledger(path)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StateError, match="cannot be used as a ledger"):
        Ledger(path)
    with pytest.raises(StateError, match="cannot be used as a ledger"):
        Ledger(tmp_path / "missing" / "ledger.sqlite")


def test_metrics_that_overflow_together_do_not_spoil_the_ledger(ledger: Ledger) -> None:
    """Each is a finite number, as the wire demands; their weighted sum is not."""
    ledger.open_round(1, now=0.5)
    ledger.close_round(
        1,
        [row(train_metrics={"loss": 1e308}), row("b", train_metrics={"loss": 1e308})],
        RESULT,
        next_round=None,
        install=nothing,
    )
    assert ledger.round(1)["worker_metrics"] == {"train.loss": pytest.approx(1e308)}


def test_what_workers_measured_is_of_the_model_that_they_received(ledger: Ledger) -> None:
    for number, accuracy in ((1, 0.1), (2, 0.5), (3, 0.75)):
        ledger.open_round(number, now=0.5)
        update = row(round=number, base_round=number, eval_metrics={"accuracy": accuracy}, train_metrics={"loss": 1.0})
        measured = ledger.close_round(number, [update], RESULT, next_round=None, install=nothing)
        assert measured == ([number - 1] if number > 1 else [])
    assert [one["worker_metrics"].get("eval.accuracy") for one in ledger.rounds()] == [0.5, 0.75, None]
    last = row("b", round=4, base_round=4, verdict=Verdict.MEASURED, num_samples=None, eval_metrics={"accuracy": 1.0})
    ledger.close_evaluation(3, [last])
    assert [one["worker_metrics"]["eval.accuracy"] for one in ledger.rounds()] == [0.5, 0.75, 1.0]
    assert (ledger.is_measured(3), ledger.is_measured(2)) == (True, False)


def test_a_stale_update_measured_the_older_model(ledger: Ledger) -> None:
    for number in (1, 2, 3):
        ledger.open_round(number, now=0.5)
        own = row(round=number, base_round=number, eval_metrics={"accuracy": number / 10})
        stale = row("b", round=number, base_round=number - 1, eval_metrics={"accuracy": (number + 1) / 10})
        ledger.close_round(number, [own, stale] if number == 3 else [own], RESULT, next_round=None, install=nothing)
    assert [one["worker_metrics"].get("eval.accuracy") for one in ledger.rounds()] == [pytest.approx(0.3), 0.3, None]


def test_a_ledger_of_an_earlier_version_is_shifted_for_readers_and_mended_when_its_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.record({"base_round": 0, "run": "r"})
        for number in (1, 2):
            ledger.open_round(number, now=0.5)
            update = row(round=number, base_round=number, eval_metrics={"m": float(number)})
            ledger.close_round(number, [update], RESULT, next_round=None, install=nothing)
    with closing(sqlite3.connect(path)) as database, database:  # as it would have written it
        database.execute("ALTER TABLE rounds DROP COLUMN num_not_finite")
        for number in (1, 2):
            text = json.dumps({"eval.m": float(number)})
            database.execute("UPDATE rounds SET worker_metrics = ? WHERE round = ?", (text, number))
    with History(tmp_path) as history:
        assert [one.get("eval.m") for one in history.rounds()] == [2.0, None]
    with closing(Ledger(path)) as ledger:
        assert [one["worker_metrics"] for one in ledger.rounds()] == [{"eval.m": 2.0}, {}]


def test_what_is_no_finite_number_is_kept_counted_and_spoils_no_mean(ledger: Ledger) -> None:
    ledger.open_round(1, now=0.5)
    nan = float("nan")
    rows = [
        row(train_metrics={"loss": 1.0, "bad": nan}),
        row("b", train_metrics={"loss": nan, "bad": nan}),
        row("c", train_metrics={"loss": 3.0, "bad": float("inf")}),
    ]
    ledger.close_round(1, rows, RESULT, next_round=None, install=nothing)
    closed = ledger.round(1)
    assert closed["worker_metrics"] == {
        "train.loss": pytest.approx(2.0, abs=1.0),
        "train.bad": pytest.approx(nan, nan_ok=True),
    }
    assert closed["num_not_finite"] == {"train.loss": 1, "train.bad": 3}
    assert closed["worker_medians"] == {"train.loss": [1.0, 3.0], "train.bad": None}


def test_why_a_round_closed_and_what_became_of_an_update_are_no_values_of_one_type() -> None:
    """They share a word, ``abandoned``; a comparison of the two was taken for one of like things."""
    assert get_type_hints(RoundResult)["closed_by"] is ClosedBy
    assert get_type_hints(UpdateRow)["verdict"] is Verdict
    assert not issubclass(ClosedBy, Verdict)
    assert not issubclass(Verdict, ClosedBy)
