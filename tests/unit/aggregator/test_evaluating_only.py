"""--evaluate-only: the workers measure one model, and nothing is trained or written."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of
from unit.aggregator.test_commands import tell
from unit.aggregator.test_measured_models import measure
from unit.rendered import text_of

from aggregator import History
from aggregator.history.overview import overview
from aggregator.pairs import idle_in_evaluation
from aggregator.settings import AggregatorSettings
from aggregator.state.summary import check_result
from aggregator.watchers.evaluation_table import evaluation_table
from console.errors import StateError, TaskError
from simulation.cli import main as fl_simulate

pytestmark = pytest.mark.timeout(60)

ZERO, ONE = state_of(w=[0.0]), state_of(w=[1.0])


@pytest.fixture
def init(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(state_of(w=[7.0]), path)
    return path


def begun(begin: Begin, init: Path | None, **settings: Any) -> EmbeddedRun:
    return begin(StateTask(ZERO), evaluate_only=True, **({} if init is None else {"init": init}), **settings)


def test_each_worker_measures_the_file_once_and_the_run_is_over(begin: Begin, init: Path) -> None:
    run = begun(begin, init)
    assert (run.head.only_evaluate, run.round, run.model["w"].tolist()) == (True, 1, [7.0])
    measure(run, "b", 0.5, num_samples=10.0)
    measure(run, "b", 0.9, num_samples=10.0)
    assert not run.aggregator.is_finished
    measure(run, "a", 0.8, num_samples=30.0)
    assert (run.aggregator.is_finished, run.head.is_finished, run.model["w"].tolist()) == (True, True, [7.0])
    summary = run.summary
    assert summary["evaluation"] == {
        "round": 0,
        "model_sha256": run.head.sha256,
        "workers": {"a": {"num_samples": 30.0, "accuracy": 0.8}, "b": {"num_samples": 10.0, "accuracy": 0.5}},
        "mean": {"accuracy": pytest.approx(0.725)},
        "central": {},
    }
    check_result(summary)
    assert summary["stopped"] == "the model after round 0 was only measured (--evaluate-only)"
    assert summary["init_sha256"]
    names = {path.name for path in (run.folder / "models").iterdir()}
    assert names <= {"round-00000.safetensors", "last.safetensors", "best.safetensors"}
    assert [row for row in run.query("SELECT worker, verdict FROM updates ORDER BY id") if row[1] == "measured"] == [
        ("b", "measured"),
        ("a", "measured"),
    ]


def test_page_and_table_show_every_worker_and_the_mean(begin: Begin, init: Path) -> None:
    run = begin(StateTask(ZERO, lambda model: {"accuracy": 0.25}), evaluate_only=True, init=init)
    measure(run, "a", 0.8, num_samples=30.0)
    measure(run, "b", 0.5, num_samples=10.0)
    shown = text_of(evaluation_table(run.summary["evaluation"]))
    for line in (("a", "30", "0.8"), ("b", "10", "0.5"), ("mean", "0.725"), ("central", "0.25")):
        assert any(all(word in row for word in line) for row in shown.splitlines()), (line, shown)
    with History(run.folder) as history:
        page = overview(history)
        assert [row["eval.accuracy"] for row in history.rounds()] == [pytest.approx(0.725)]
    assert {row["worker"]: row["measured"]["newest"] for row in page["workers"]} == {"a": 0.8, "b": 0.5}
    assert ("0", "rounds") in page["tiles"]
    json.dumps(page)


def test_settings_of_training_are_said_to_have_no_effect(
    begin: Begin, init: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun(begin, init, server_optimizer="fedadam", correction="ditto:lam=0.1", lr_schedule="warmup:3")
    assert (
        "--evaluate-only trains nothing, and so these have no effect: --correction ditto, --server-optimizer"
        " fedadam, --lr-schedule warmup:3" in caplog.text
    )


@pytest.mark.parametrize(
    "settings", [{}, {"lr": 0.1, "quorum": "2"}, {"evaluate_only": False, "server_optimizer": "fedadam"}]
)
def test_nothing_is_said_where_nothing_is_without_effect(
    begin: Begin, init: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    begin(StateTask(ZERO), init=init, **({"evaluate_only": True} | settings))
    assert "have no effect" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        ({}, []),
        ({"server_optimizer": "fedyogi"}, ["--server-optimizer fedyogi"]),
        ({"server_lr": 0.5}, ["--server-lr 0.5"]),
        ({"robust": "median"}, ["--robust median"]),
        ({"correction": "scaffold"}, ["--correction scaffold"]),
        ({"weighting": "fednova"}, ["--weighting fednova"]),
        ({"sample": "0.5", "clip_norm": 1.0}, ["--clip-norm 1.0", "--sample 0.5"]),
        ({"sample": "2", "sample_schedule": "linear:2:4:5"}, ["--sample 2", "--sample-schedule linear:2:4:5"]),
    ],
)
def test_what_was_given_is_named_and_what_goes_with_it_is_not(settings: dict[str, Any], idle: list[str]) -> None:
    config = AggregatorSettings(task="mine", evaluate_only=True, **settings).config
    assert idle_in_evaluation(config.recorded) == idle


def test_updates_that_come_all_the_same_are_not_folded(begin: Begin, init: Path) -> None:
    run = begun(begin, init)
    run.fold_all([("a", ONE), ("b", ONE)])
    assert not run.aggregator.is_finished
    assert run.verdicts() == [("a", "late"), ("b", "late")]


def test_a_round_s_rules_say_when_it_is_over(begin: Begin, init: Path) -> None:
    run = begun(begin, init, quorum="3", min_updates=2, deadline_s=100.0)
    measure(run, "a", 0.5)
    run.pass_time(101.0)
    assert not run.aggregator.is_finished  # extended, since it needs two
    measure(run, "b", 0.7)
    assert run.aggregator.is_finished
    assert list(run.summary["evaluation"]["workers"]) == ["a", "b"]


def test_killed_on_the_way_it_goes_on_with_the_same_command_and_asks_nobody_twice(begin: Begin, init: Path) -> None:
    run = begun(begin, init)
    measure(run, "a", 0.5)
    run.aggregator._current.commit()
    run = run.crash().start()
    run.settle()
    assert not run.aggregator.is_finished
    measure(run, "b", 0.7)
    summary = run.summary
    again = run.crash().start()
    assert (again.aggregator.is_finished, again.summary) == (True, summary)


def test_without_a_model_to_measure_it_says_what_to_give(begin: Begin) -> None:
    with pytest.raises(StateError, match=r"--evaluate-only needs a model, .*: give --init model\.safetensors"):
        begun(begin, None)


def test_the_last_model_of_a_run_is_measured_and_the_run_can_go_on(begin: Begin) -> None:
    run = begin(StateTask(ZERO, lambda model: {"accuracy": 0.5}), rounds=3)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.aggregator.close()
    known = {"broker": run.broker, "clock": run.clock, "rounds": 3}
    judged = begin(run.task, evaluate_only=True, **known)
    assert (judged.head.only_evaluate, judged.round) == (True, 2)
    measure(judged, "a", 0.9)
    measure(judged, "c", 0.7)
    assert judged.summary["evaluation"]["mean"] == {"accuracy": pytest.approx(0.8)}
    assert judged.summary["evaluation"]["central"] == {"accuracy": 0.5}
    judged.aggregator.close()
    on = begin(run.task, **known)
    for number in (2, 3):
        assert (on.round, on.head.only_evaluate) == (number, False)
        on.fold_all([("a", ONE), ("b", ONE)])
    assert (on.aggregator.is_finished, on.model["w"].tolist()) == (True, [3.0])
    assert "evaluation" not in on.summary


def test_an_evaluation_that_nobody_measured_anything_in_is_no_result(begin: Begin, init: Path) -> None:
    run = begun(begin, init)
    measure(run, "a", None)
    measure(run, "b", None)
    with pytest.raises(TaskError, match="2 workers answered, and none of them measured anything"):
        check_result(run.summary)
    alone = begun(begin, init, folder="alone", deadline_s=10.0, on_short="accept")
    alone.pass_time(11.0)
    with pytest.raises(TaskError, match="0 workers answered"):
        check_result(alone.summary)


def test_commands_do_not_end_it_before_its_time_but_finish_now_does(begin: Begin, init: Path) -> None:
    run = begun(begin, init, quorum="3")
    measure(run, "a", 0.5)
    assert tell(run, "exclude lab-*")[0]
    assert tell(run, "pause")[0]
    assert tell(run, "resume")[0]
    assert not run.aggregator.is_finished
    tell(run, "finish now")
    assert run.aggregator.is_finished
    assert run.summary["evaluation"]["workers"] == {"a": {"accuracy": 0.5}}


def test_a_simulation_measures_a_model_at_all_its_sites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--task", "breast-cancer", "--workers", "3", "--no-baselines", "--no-live"]
    assert fl_simulate([*common, "--rounds", "1", "--state", str(tmp_path / "run")]) == 0
    model = tmp_path / "run" / "models" / "last.safetensors"
    assert fl_simulate([*common, "--evaluate-only", "--init", str(model), "--state", str(tmp_path / "judged")]) == 0
    trained, judged = (
        json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8")) for name in ("run", "judged")
    )
    assert judged["final"]["model_sha256"] == trained["final"]["model_sha256"]
    assert judged["evaluation"]["central"] == trained["final"]["metrics"]
    assert list(judged["evaluation"]["workers"]) == ["worker-0", "worker-1", "worker-2"]
    assert "mean, weighted by samples" in capsys.readouterr().out


def test_a_run_with_a_file_momentum_and_a_schedule_is_measured_on_the_way_and_goes_on_to_the_bit(
    begin: Begin, init: Path
) -> None:
    settings = {"server_optimizer": "fedavgm:momentum=0.5", "server_lr_schedule": "linear:1:2:3", "rounds": 3}
    run = begin(StateTask(ZERO), init=init, **settings)
    told = []
    for number in (1, 2, 3):
        run.fold_all([("a", ONE), ("b", ONE)])
        told.append(run.model["w"].item())
        run.aggregator.close()
        known = settings | {"broker": run.broker, "clock": run.clock}
        run = begin(StateTask(ZERO), evaluate_only=True, **known)
        measure(run, "a", 0.1 * number)
        measure(run, "b", 0.1 * number)
        assert run.summary["evaluation"]["round"] == number
        run.aggregator.close()
        run = begin(StateTask(ZERO), **known)
    assert told == [8.0, 8.0 + 1.5 * 1.5, 8.0 + 1.5 * 1.5 + 2 * 1.75]
    assert run.aggregator.is_finished
