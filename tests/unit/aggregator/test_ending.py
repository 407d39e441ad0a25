"""How a run ends: early or after its last round, with a summary."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn
from unit.aggregator.closed_rounds import ClosedRounds
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from aggregator.state.best_so_far import BestSoFar
from aggregator.state.early_stop import Aim, Ending, best_round, metric_of, reason_to_stop
from aggregator.state.retention import best_of
from learning.metrics import Direction

ZERO = state_of(w=[0.0])
ONE = state_of(w=[1.0])


class Scripted(StateTask):
    """A task whose central evaluation gives these values, one after each round; the first is of the initial model."""

    def __init__(self, name: str, values: list[float]) -> None:
        self._values: Iterator[float] = iter([0.0, *values])
        self._name = name
        super().__init__(ZERO, self._next)

    def _next(self, model: nn.Module) -> dict[str, float]:
        return {"num_samples": 10.0, self._name: next(self._values)}


def finish(run: EmbeddedRun, *, most: int = 20) -> int:
    """Feeds the run until it ends; returns its last round."""
    for number in range(most):
        if run.aggregator.is_finished:
            return number
        run.fold_all([("a", ONE)])
    raise AssertionError("the run does not end")


def test_a_run_ends_after_its_last_round_with_the_final_model_on_the_stream(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=3, quorum="1")
    assert finish(run) == 3
    assert (run.head.is_finished, run.head.round) == (True, 4)
    assert run.model["w"].tolist() == [3.0]
    assert run.summary["stopped"] == "all 3 rounds are done"


def test_a_run_stops_when_its_metric_is_good_enough(begin: Begin) -> None:
    run = begin(Scripted("accuracy", [0.5, 0.9, 0.95]), quorum="1", rounds=9, stop_metric="accuracy", stop_at=0.9)
    assert finish(run) == 2
    assert run.head.is_finished
    assert run.summary["stopped"] == "accuracy reached 0.9 in round 2"


def test_a_loss_is_good_enough_when_it_is_small(begin: Begin) -> None:
    run = begin(Scripted("loss", [2.0, 1.0, 0.1]), quorum="1", rounds=9, stop_metric="loss", stop_at=0.5)
    assert finish(run) == 3


def test_a_run_stops_when_its_metric_was_not_better_for_so_many_rounds(begin: Begin) -> None:
    values = [0.5, 0.6, 0.6, 0.55, 0.9]
    run = begin(Scripted("accuracy", values), quorum="1", rounds=9, stop_metric="accuracy", patience=2)
    assert finish(run) == 4
    assert "was not better than in round 2" in run.summary["stopped"]


def test_a_run_that_stopped_early_is_still_finished_after_a_restart(begin: Begin) -> None:
    task = Scripted("accuracy", [0.9])
    run = begin(task, quorum="1", rounds=9, stop_metric="accuracy", stop_at=0.9)
    assert finish(run) == 1
    task._values = iter([0.0])
    again = run.crash().start()
    assert again.aggregator.is_finished
    again.aggregator.close()


def test_a_run_may_stop_on_what_workers_measured(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="1", rounds=9, stop_metric="eval.accuracy", stop_at=0.9)
    run.fold_all([("a", ONE)], eval_metrics={"accuracy": 0.5})
    assert not run.aggregator.is_finished
    run.fold_all([("a", ONE)], eval_metrics={"accuracy": 0.95})
    assert run.head.only_evaluate
    run.pass_time(61.0)
    assert run.aggregator.is_finished
    assert run.summary["stopped"] == "eval.accuracy (median of the workers) reached 0.95 in round 1"


def test_a_metric_that_nobody_measures_never_stops_a_run(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="1", rounds=3, stop_metric="accuracy", stop_at=0.0, patience=1)
    assert finish(run) == 3


def rows(*values: float | None) -> list[dict[str, Any]]:
    return [
        {"round": number, "metrics": {} if value is None else {"m": value}, "worker_metrics": {}}
        for number, value in enumerate(values, start=1)
    ]


def test_the_best_round_is_the_first_of_equals() -> None:
    assert best_round(rows(0.1, 0.3, 0.3, None), "m", Direction.MAX) == (2, 0.3)
    assert best_round(rows(0.3, 0.1, 0.1, None), "m", Direction.MIN) == (2, 0.1)
    assert best_round(rows(None), "m", Direction.MAX) is None


@pytest.mark.parametrize(
    ("aim", "metric", "direction"),
    [
        (Aim(), "loss", Direction.MIN),
        (Aim(), "score", Direction.MAX),
        (Aim("score"), "score", Direction.MAX),
        (Aim("score", Direction.MIN), "score", Direction.MIN),
        (Aim("eval.score", Direction.MIN), "train.score", Direction.MIN),
        (Aim("score", Direction.MIN), "accuracy", Direction.MAX),
        (Aim("loss", Direction.MAX), "loss", Direction.MAX),
        (Aim("loss", Direction.MAX), "eval.loss", Direction.MAX),
        (Aim("loss", Direction.MAX), "other_loss", Direction.MIN),
    ],
)
def test_the_direction_of_a_run_is_that_of_its_metric_and_names_tell_the_others(
    aim: Aim, metric: str, direction: Direction
) -> None:
    assert aim.direction_of(metric) is direction


@pytest.mark.parametrize(
    ("aim", "values", "reason"),
    [
        (Aim("m"), (0.4, 0.5), "m reached 0.5 in round 2"),
        (Aim("m", Direction.MAX), (0.4, 0.6), "m reached 0.6 in round 2"),
        (Aim("m", Direction.MIN), (0.6, 0.5), "m reached 0.5 in round 2"),
        (Aim("m", Direction.MIN), (0.6, 0.7, 0.8), "m was not better than in round 1 (0.6) for 2 rounds"),
        (Aim("m", Direction.MAX), (0.3, 0.2, 0.1), "m was not better than in round 1 (0.3) for 2 rounds"),
        (Aim("m", Direction.MIN), (0.8, 0.7, 0.6), None),
        (Aim("n", Direction.MIN), (0.1,), None),
        (Aim(), (0.9,), None),
    ],
)
def test_a_run_stops_by_its_direction(aim: Aim, values: tuple[float, ...], reason: str | None) -> None:
    ending = Ending(rounds=99, aim=aim, stop_at=0.5, patience=2)
    assert ending.reason_after(len(values), BestSoFar(ClosedRounds(rows(*values))).after) == reason


@pytest.mark.parametrize(
    ("aim", "best"),
    [
        (Aim(), ("accuracy", 2, 0.9)),
        (Aim("loss"), ("loss", 1, 0.1)),
        (Aim("loss", Direction.MAX), ("loss", 3, 0.3)),
        (Aim("accuracy", Direction.MIN), ("accuracy", 1, 0.5)),
        (Aim("eval.score", Direction.MIN), ("eval.score", 3, 1.0)),
        (Aim("nothing"), None),
    ],
)
def test_the_best_round_is_so_by_the_run_s_metric_and_direction(aim: Aim, best: object) -> None:
    found = [(0.5, 0.1, 3.0), (0.9, 0.2, 2.0), (0.7, 0.3, 1.0)]
    closed = [
        {"round": number, "metrics": {"accuracy": one, "loss": two}, "worker_metrics": {"eval.score": three}}
        for number, (one, two, three) in enumerate(found, start=1)
    ]
    assert best_of(closed, aim) == best


def test_a_usual_metric_of_training_makes_no_model_the_best() -> None:
    closed = [{"round": 1, "metrics": {}, "worker_metrics": {"train.accuracy": 1.0, "eval.loss": 0.5}}]
    assert best_of(closed, Aim()) == ("eval.loss", 1, 0.5)


def test_a_run_told_that_smaller_is_better_stops_keeps_and_sums_up_by_that(begin: Begin) -> None:
    said = {"stop_metric": "score", "stop_direction": "min", "stop_at": 0.2}
    values = [0.5, 0.3, 0.4, 0.6]
    run = begin(Scripted("score", values), quorum="1", rounds=9, **said)
    for _ in values:
        run.fold_all([("a", ONE)])
    models = run.folder / "models"
    assert (models / "best.safetensors").samefile(models / "round-00002.safetensors")

    run.task._values = iter([0.0, 0.35, 0.1])
    again = run.crash().start()
    again.fold_all([("a", ONE)])
    assert (models / "best.safetensors").samefile(models / "round-00002.safetensors")
    again.fold_all([("a", ONE)])
    assert (models / "best.safetensors").samefile(models / "round-00006.safetensors")
    assert again.aggregator.is_finished
    assert again.summary["best"] == {"round": 6, "score": 0.1}
    assert again.summary["stopped"] == "score reached 0.1 in round 6"
    assert again.summary["settings"]["stop_direction"] == "min"
    again.aggregator.close()


def test_a_run_without_a_reason_goes_on() -> None:
    aim = Aim("m")
    assert reason_to_stop((2, 0.2), aim, stop_at=0.5, patience=1, last_round=2) is None
    assert reason_to_stop(None, aim, stop_at=0.5, patience=1, last_round=0) is None


def test_the_summary_tells_what_was_and_what_came_of_it(begin: Begin) -> None:
    run = begin(Scripted("accuracy", [0.5, 0.75]), rounds=2, deadline_s=60, run="demo", server_lr=0.5)
    run.site.send(b"garbage", worker="bad")
    run.fold_all([("a", ONE), ("b", ONE)], train_metrics={"loss": 0.25})
    run.fold_all([("c", ONE)], round=1)
    run.fold_all([("a", ONE)])
    run.fold_all([("a", ONE)], instance="ffffffff")
    run.pass_time(60)
    summary = run.summary

    assert summary["run"] == "demo"
    assert summary["run_id"] == run.head.run_id
    assert summary["task"] == "mine"
    assert (summary["settings"]["server_lr"], summary["settings"]["quorum"]) == (0.5, "2")
    assert "broker" not in summary["settings"]
    first, second = summary["rounds"]
    counts = ("round", "closed_by", "folded", "late", "refused", "duplicate", "num_samples", "accuracy", "seconds")
    assert [first[key] for key in counts] == [1, "quorum", 2, 0, 1, 0, 2, 0.5, 0.0]
    assert [second[key] for key in counts] == [2, "deadline", 1, 1, 0, 1, 1, 0.75, 60.0]
    assert first["worker_metrics"] == {"train.loss": 0.25}
    assert second["metrics"] == {"num_samples": 10.0, "accuracy": 0.75}
    assert summary["final"]["round"] == 2
    assert summary["final"]["accuracy"] == 0.75
    assert summary["final"]["model_sha256"] == second["model_sha256"] == run.head.sha256


def test_the_summary_is_json_that_any_program_reads_whatever_workers_measured(begin: Begin) -> None:
    """JSON has no Infinity; two finite metrics can have an infinite sum."""
    run = begin(StateTask(ZERO), rounds=1)
    run.fold_all([("a", ONE), ("b", ONE)], train_metrics={"loss": 1e308}, eval_metrics={"loss": -1e308})
    run.pass_time(61.0)  # nobody measures the last model

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    json.loads((run.folder / "summary.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_worker_s_count_of_samples_cannot_turn_the_metrics_of_others(begin: Begin) -> None:
    """``num_samples`` among the metrics is the weight of the others; a negative one is no weight."""
    run = begin(StateTask(ZERO), rounds=2)
    for number in (1, 2):
        run.send("a", ONE, round=number, eval_metrics={"accuracy": 0.5, "num_samples": 100.0})
        run.send("b", ONE, round=number, eval_metrics={"accuracy": 0.9, "num_samples": -99.0})
        run.settle()
    (accuracy,) = run.closed("json_extract(worker_metrics, '$.\"eval.accuracy\"')")[0]
    assert 0.5 <= accuracy <= 0.9


@pytest.mark.parametrize(
    ("metric", "honest", "forged", "stop_at"),
    [("eval.accuracy", 0.4, 1e9, 0.9), ("eval.loss", 2.0, -1e9, 0.1), ("train.loss", 2.0, -1e9, 0.1)],
)
@pytest.mark.parametrize("names", [("a", "forger"), ("a", "b", "forger"), ("a", "b", "c", "forger")])
def test_one_worker_s_metric_ends_no_run_however_many_samples_it_claims(
    begin: Begin, metric: str, honest: float, forged: float, stop_at: float, names: tuple[str, ...]
) -> None:
    run = begin(StateTask(ZERO), quorum=str(len(names)), rounds=9, stop_metric=metric, stop_at=stop_at)
    place, _, name = metric.partition(".")
    for worker in names:
        value, num_samples = (forged, 2**29 - 1) if worker == "forger" else (honest, 10)
        run.send(worker, ZERO, num_samples=num_samples, **{f"{place}_metrics": {name: value}})
    run.settle()
    assert run.round == 2
    assert not run.aggregator.is_finished


def test_a_run_ends_on_the_median_of_its_workers_and_says_so(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="3", rounds=9, stop_metric="eval.accuracy", stop_at=0.9)
    for number in (1, 2):
        for worker, value in (("a", 0.2), ("b", 0.91), ("c", 0.95)):
            run.send(worker, ZERO, round=number, eval_metrics={"accuracy": value if number == 2 else 0.0})
        run.settle()
    run.pass_time(61.0)  # nobody measures the last model
    assert run.summary["stopped"] == "eval.accuracy (median of the workers) reached 0.91 in round 1"


def test_a_metric_that_no_more_than_half_of_the_workers_measure_ends_no_run(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="4", rounds=2, stop_metric="eval.accuracy", stop_at=0.9)
    for number, reporting in ((1, "a"), (2, "ab")):
        for worker in "abcd":
            metrics = {"accuracy": 0.99} if worker in reporting else {}
            run.send(worker, ZERO, round=number, eval_metrics=metrics)
        run.settle()
    run.pass_time(61.0)
    assert run.summary["stopped"] == "all 2 rounds are done"


@pytest.mark.parametrize(
    ("row", "direction", "value"),
    [
        ({"metrics": {}, "worker_metrics": {"eval.m": 9.0}, "worker_medians": {"eval.m": None}}, Direction.MAX, None),
        ({"metrics": {"eval.m": 1.0}, "worker_metrics": {}, "worker_medians": {"eval.m": [2, 3]}}, Direction.MAX, 1.0),
        ({"metrics": {}, "worker_metrics": {"eval.m": 9.0}, "worker_medians": {"eval.m": [2, 3]}}, Direction.MAX, 2.0),
        ({"metrics": {}, "worker_metrics": {"eval.m": 9.0}, "worker_medians": {"eval.m": [2, 3]}}, Direction.MIN, 3.0),
        ({"metrics": {}, "worker_metrics": {"eval.m": 9.0}, "worker_medians": {}}, Direction.MIN, 9.0),
        ({"metrics": {}, "worker_metrics": {}, "worker_medians": {}}, Direction.MIN, None),
    ],
)
def test_of_two_middle_values_the_worse_counts(row: dict[str, Any], direction: Direction, value: float | None) -> None:
    assert metric_of(row, "eval.m", direction) == value
