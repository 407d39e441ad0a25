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


def measure(run: EmbeddedRun, worker: str, accuracy: float | None, **more: float) -> None:
    """Answers a model that is only to be measured."""
    assert run.head.only_evaluate
    answer = Reply(
        run_id=run.head.run_id,
        worker=worker,
        instance=INSTANCE,
        round=run.round,
        model_sha256=run.head.sha256,
        outcome="measured",
        sent_at=1.0,
        eval_metrics=({} if accuracy is None else {"accuracy": accuracy}) | more,
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


def judge(run: EmbeddedRun, accuracies: dict[str, tuple[float, float]]) -> None:
    """Each worker sends an update with (accuracy, samples evaluated on), or, of the last model, only these."""
    for worker, (accuracy, num_samples) in accuracies.items():
        metrics = {"accuracy": accuracy, "num_samples": num_samples}
        if run.head.only_evaluate:
            measure(run, worker, accuracy, num_samples=num_samples)
        else:
            run.send(worker, ONE, num_samples=1000 if worker == "a" else 1, eval_metrics=metrics)
    run.settle()


LARGE_SITE_LIKES_ROUND_1 = (
    {"a": (0.0, 90.0), "b": (0.0, 5.0), "c": (0.0, 5.0)},  # of the model that the run began with
    {"a": (0.9, 90.0), "b": (0.1, 5.0), "c": (0.1, 5.0)},
    {"a": (0.3, 90.0), "b": (0.5, 5.0), "c": (0.5, 5.0)},
)


def test_the_best_may_go_by_what_the_sites_measure_weighted_by_what_they_evaluate_on(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="3", rounds=2, best_by="weighted")
    for accuracies in LARGE_SITE_LIKES_ROUND_1:
        judge(run, accuracies)
    best = {"round": 1, "eval.accuracy": pytest.approx(0.9 * 0.9 + 0.1 * 0.1), "by": "weighted"}
    assert run.summary["best"] == best
    models = run.folder / "models"
    assert (models / "best.safetensors").samefile(models / "round-00001.safetensors")
    with History(run.folder) as history:
        assert any("weighted mean of the workers" in label for _, label in overview(history)["tiles"])


def test_by_default_each_site_has_one_vote_for_the_best(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="3", rounds=2)
    for accuracies in LARGE_SITE_LIKES_ROUND_1:
        judge(run, accuracies)
    assert run.summary["best"] == {"round": 2, "eval.accuracy": 0.5}


@pytest.mark.parametrize("limit", [{"max_samples": 5}, {"max_weight": 1.0}])
def test_a_site_cannot_claim_more_weight_in_the_best_than_the_limits_leave_it(
    begin: Begin, limit: dict[str, float]
) -> None:
    run = begin(StateTask(ZERO), quorum="3", rounds=2, best_by="weighted", **limit)
    for accuracies in LARGE_SITE_LIKES_ROUND_1:
        judge(run, {worker: (value, 1e300 if worker == "a" else num) for worker, (value, num) in accuracies.items()})
    assert run.summary["best"] == {"round": 2, "eval.accuracy": pytest.approx(1.3 / 3), "by": "weighted"}


def test_what_less_than_half_of_the_sites_measure_makes_no_model_the_best(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="3", rounds=2, best_by="weighted")
    run.fold_all([(name, ONE) for name in "abc"], eval_metrics={"accuracy": 0.1})
    run.send("a", ONE, eval_metrics={"accuracy": 1.0, "num_samples": 1e9})
    run.fold_all([("b", ONE), ("c", ONE)])
    for worker in "abc":
        measure(run, worker, 0.2, num_samples=1.0)
    assert run.summary["best"]["round"] == 2


def test_the_early_stop_goes_by_the_median_whatever_makes_the_best(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="3", rounds=4, best_by="weighted", stop_metric="eval.accuracy", stop_at=0.5)
    for accuracies in LARGE_SITE_LIKES_ROUND_1[:2]:
        judge(run, accuracies)
    assert (run.round, run.aggregator.is_finished) == (3, False)
    run.crash().start()


def test_who_only_measures_without_saying_on_how_much_weighs_what_its_last_update_did(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="2", rounds=1, best_by="weighted")
    run.send("a", ONE, num_samples=30, eval_metrics={"accuracy": 0.1})
    run.send("b", ONE, num_samples=10, eval_metrics={"accuracy": 0.1})
    run.settle()
    measure(run, "a", 0.8)
    measure(run, "b", 0.4)
    assert run.summary["best"] == {"round": 1, "eval.accuracy": pytest.approx(0.7), "by": "weighted"}
