"""What the sites measured belongs to the model that they measured, the last one included; NaN is shown."""

import json
import logging
import math

import pytest
from safetensors.torch import load_file
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import INSTANCE, EmbeddedRun, StateTask, state_of

from aggregator import History
from aggregator.history.overview import overview
from broker.wire.codec import encode
from broker.wire.messages import Reply

pytestmark = pytest.mark.timeout(60)

ZERO = state_of(w=[0.0])
ONE = state_of(w=[1.0])


def measure(run: EmbeddedRun, worker: str, accuracy: float | None) -> None:
    """Answers the last model, which is only to be measured."""
    assert run.head.only_evaluate
    answer = Reply(
        run_id=run.head.run_id,
        worker=worker,
        instance=INSTANCE,
        round=run.round,
        model_sha256=run.head.sha256,
        outcome="measured",
        sent_at=1.0,
        eval_metrics={} if accuracy is None else {"accuracy": accuracy},
    )
    run.site.send(encode(answer), worker=worker)
    run.settle()


def test_the_last_model_is_measured_by_the_sites_and_may_be_the_best(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="2", rounds=2)
    for accuracy in (0.1, 0.5):
        run.fold_all([("a", ONE), ("b", ONE)], eval_metrics={"accuracy": accuracy})
    assert not run.aggregator.is_finished
    assert (run.head.only_evaluate, run.head.is_finished, run.round) == (True, False, 3)
    last = run.head.sha256
    measure(run, "a", 0.7)
    assert not run.aggregator.is_finished
    measure(run, "b", 0.9)
    assert run.aggregator.is_finished
    assert (run.head.only_evaluate, run.head.is_finished, run.head.sha256) == (False, True, last)
    assert [one["worker_metrics"] for one in run.summary["rounds"]] == [
        {"eval.accuracy": 0.5},
        {"eval.accuracy": pytest.approx(0.8)},
    ]
    assert run.summary["best"] == {"round": 2, "eval.accuracy": 0.7}
    models = run.folder / "models"
    assert (models / "best.safetensors").samefile(models / "round-00002.safetensors")


def test_the_best_model_is_the_one_that_was_measured_so(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="1", rounds=3)
    for accuracy in (0.1, 0.9, 0.2):  # of the models after rounds 0, 1 and 2
        run.fold_all([("a", ONE)], eval_metrics={"accuracy": accuracy})
    measure(run, "a", 0.3)
    assert run.summary["best"] == {"round": 1, "eval.accuracy": 0.9}
    assert load_file(run.folder / "models" / "best.safetensors")["w"].tolist() == [1.0]


def test_nobody_is_asked_to_measure_where_the_aggregator_can_or_the_sites_cannot(begin: Begin) -> None:
    central = begin(StateTask(ZERO, lambda model: {"accuracy": 0.5}), quorum="1", rounds=1)
    central.fold_all([("a", ONE)], eval_metrics={"accuracy": 0.5})
    assert central.aggregator.is_finished


def test_where_no_site_has_data_of_its_own_nobody_is_asked(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="1", rounds=1)
    run.fold_all([("a", ONE)], eval_metrics={"num_samples": 0.0})
    assert run.aggregator.is_finished


def test_sites_that_left_are_not_waited_for_without_end(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="2", rounds=1, deadline_s=None)
    run.fold_all([("a", ONE), ("b", ONE)], eval_metrics={"accuracy": 0.5})
    measure(run, "a", 0.7)
    assert not run.aggregator.is_finished
    run.pass_time(61.0)
    assert run.aggregator.is_finished
    assert run.summary["final"]["worker_metrics"] == {"eval.accuracy": 0.7}


def test_killed_while_the_last_model_is_measured_it_goes_on_with_that(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="2", rounds=1)
    run.fold_all([("a", ONE), ("b", ONE)], eval_metrics={"accuracy": 0.5})
    digest = run.head.sha256
    measure(run, "a", 0.7)
    run.aggregator._current.commit()
    run = run.crash().start()
    run.settle()
    assert not run.aggregator.is_finished
    measure(run, "b", 0.9)
    assert run.summary["final"]["worker_metrics"] == {"eval.accuracy": pytest.approx(0.8)}
    run = run.crash().start()  # the same command once more asks nobody again
    assert run.aggregator.is_finished
    assert (run.head.is_finished, run.head.sha256) == (True, digest)


def test_a_measured_run_goes_on_with_more_rounds_and_its_workers_count_again(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="1", rounds=1)
    run.fold_all([("a", ONE)], eval_metrics={"accuracy": 0.5})
    measure(run, "a", 0.7)
    run.settings = run.settings.model_copy(update={"rounds": 2})
    run = run.crash().start()
    assert (run.round, run.head.only_evaluate, run.head.is_finished) == (2, False, False)
    run.fold_all([("a", ONE)], eval_metrics={"accuracy": 0.7})
    measure(run, "a", 0.8)
    assert [one["worker_metrics"]["eval.accuracy"] for one in run.summary["rounds"]] == [0.7, 0.8]
    assert run.model["w"].tolist() == [2.0]


def test_an_update_that_comes_while_the_last_model_is_measured_is_late(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="1", rounds=1, max_staleness=3)
    run.fold_all([("a", ONE)], eval_metrics={"accuracy": 0.5})
    run.send("b", ONE, round=1)
    run.settle()
    measure(run, "a", 0.7)
    assert run.query("SELECT worker, verdict FROM updates ORDER BY id") == [
        ("a", "folded"),
        ("b", "late"),
        ("a", "measured"),
    ]
    assert run.model["w"].tolist() == [1.0]


def test_a_metric_that_there_is_none_of_is_told_after_the_first_round_and_after_a_restart(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(StateTask(ZERO), quorum="1", rounds=9, stop_metric="eval.f1")
    told = "--stop-metric eval.f1: there is no such metric after round 1, and so no best model and no early end"
    run.fold_all([("a", ONE)], eval_metrics={"accuracy": 0.5}, train_metrics={"loss": 1.0})
    assert f"{told}; there are eval.accuracy, train.loss" in caplog.text
    run.fold_all([("a", ONE)], eval_metrics={"accuracy": 0.5})
    assert caplog.text.count("--stop-metric eval.f1") == 1
    run.crash().start()
    assert caplog.text.count("--stop-metric eval.f1") == 2


def test_a_metric_that_there_is_is_not_complained_about(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(StateTask(ZERO), quorum="1", rounds=9, stop_metric="eval.accuracy")
    run.fold_all([("a", ONE)], eval_metrics={"accuracy": 0.5})
    assert "--stop-metric" not in caplog.text


def test_a_central_loss_that_is_nan_is_shown_counted_and_never_the_best(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    losses = iter((9.0, float("nan"), 2.0, float("inf")))  # the first look is whether there are data
    run = begin(StateTask(ZERO, lambda model: {"loss": next(losses)}), quorum="1", rounds=3)
    caplog.set_level(logging.INFO)
    for _ in range(3):
        run.fold_all([("a", ONE)])
    text = (run.folder / "summary.json").read_text(encoding="utf-8")
    summary = json.loads(text, parse_constant=pytest.fail)
    assert [one["loss"] for one in summary["rounds"]] == ["nan", 2.0, "inf"]
    assert summary["best"] == {"round": 2, "loss": 2.0}
    assert "loss nan" in caplog.text
    with History(run.folder) as history:
        assert [one["num_not_finite"] for one in history.rounds()] == [1, 0, 1]
        assert math.isnan(history.rounds()[0]["loss"])
        page = overview(history)
    json.loads(json.dumps(page), parse_constant=pytest.fail)
    assert page["figures"]["curve loss"]["series"][0]["y"] == [None, 2.0, None]
