"""Settings that follow the round: exact values, one place where they are made, and the same after any kill."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of
from unit.aggregator.test_commands import tell

from aggregator import History
from aggregator.history.model_card import model_card
from aggregator.history.overview import overview
from aggregator.plans.schedule import Schedule
from aggregator.settings import AggregatorSettings
from simulation import simulate
from simulation.settings import SimulationSettings

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).parents[3]

ZERO, ONE = state_of(w=[0.0]), state_of(w=[1.0])


def values(text: str, *rounds: int, own: float = 0.05) -> list[float]:
    schedule = Schedule.parse(text)
    return [schedule.value(number, own) for number in rounds]


def test_a_cosine_goes_from_its_start_in_round_1_to_its_end_at_the_horizon_and_stays_there() -> None:
    assert values("cosine:0.05:0.001:101", 1, 51, 101, 102, 10**9) == [0.05, 0.0255, 0.001, 0.001, 0.001]
    assert values("cosine:1:0:4", 2, 3) == [0.75, 0.25]


def test_a_line_is_even_and_may_go_up() -> None:
    assert values("linear:1:5:5", 1, 2, 3, 4, 5, 6) == [1, 2, 3, 4, 5, 5]


def test_a_step_multiplies_from_each_of_its_rounds_on() -> None:
    assert values("step:0.5@10,20", 1, 9, 10, 19, 20, 1000, own=0.08) == [0.08, 0.08, 0.04, 0.04, 0.02, 0.02]
    assert values("step:0.1@2,3,4", 4, own=1.0) == [0.001]


def test_a_warmup_reaches_the_whole_value_in_its_last_round() -> None:
    assert values("warmup:5", 1, 2, 5, 6, own=0.5) == [0.1, 0.2, 0.5, 0.5]
    assert values("warmup:1", 1, own=0.5) == [0.5]


def test_factors_go_with_a_curve_or_with_each_other() -> None:
    both = "warmup:2+cosine:1:0:4"
    assert values(both, 1, 2, 3, 4) == values("cosine:1:0:4+warmup:2", 1, 2, 3, 4) == [0.5, 0.75, 0.25, 0.0]
    assert values("warmup:2+step:0.5@3", 1, 2, 3, own=1.0) == [0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no schedule"),
        ("sine:1:2:3", "is no schedule"),
        ("cosine:1:2", "is no schedule"),
        ("cosine:1:2:3:4", "is no schedule"),
        ("cosine:1:x:3", "should be numbers"),
        ("cosine:1:nan:3", "finite numbers"),
        ("cosine:1:-1:3", "not below 0"),
        ("cosine:1:2:1", "a whole number from 2 on"),
        ("cosine:1:2:3.5", "a whole number from 2 on"),
        ("step:0@5", "is above 0"),
        ("step:0.5@5,5", "go up"),
        ("step:0.5@1", "a whole number from 2 on"),
        ("step:0.5", "is no schedule"),
        ("warmup:0", "a whole number from 1 on"),
        ("cosine:1:0:5+linear:1:0:5", "follows one cosine or line"),
        ("warmup:5+warmup:6", "once each"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_would_be(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Schedule.parse(text)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"lr_schedule": "cosine:0.05:0:100"}, "lr may become 0; lr should be greater than 0"),
        ({"lr_schedule": "linear:1:1e7:5"}, "lr may become 1e+07"),
        ({"lr_schedule": "step:10@2,3", "lr": 1e5}, "lr may become 1e+07"),
        ({"mu_schedule": "warmup:5"}, "multiplies mu, which is 0"),
        ({"server_lr_schedule": "linear:1:0:5"}, "server_lr may become 0"),
    ],
)
def test_a_schedule_that_leaves_its_settings_bounds_is_refused_at_the_start(
    settings: dict[str, object], problem: str
) -> None:
    for kind in (AggregatorSettings, SimulationSettings):
        with pytest.raises(ValidationError) as error:
            kind.model_validate(settings)
        assert problem in str(error.value)


def test_epochs_are_whole_and_at_least_one() -> None:
    settings = AggregatorSettings.model_validate({"epochs_schedule": "linear:4:0:5", "mu_schedule": "linear:0:1:5"})
    assert [settings.local_in(number).epochs for number in range(1, 7)] == [4, 3, 2, 1, 1, 1]
    assert [settings.local_in(number).mu for number in (1, 3, 5)] == [0.0, 0.5, 1.0]


PLANNED = {"lr_schedule": "cosine:0.05:0.001:4", "epochs_schedule": "step:0.5@3", "server_lr_schedule": "linear:1:2:3"}


def fold(run: EmbeddedRun) -> None:
    run.fold_all([("a", ONE), ("b", ONE)])


def test_every_round_is_told_records_and_steps_by_its_own_values(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=4, **PLANNED)
    told = []
    for _ in range(4):
        told.append((run.head.local.lr, run.head.local.epochs))
        fold(run)
    assert told == [(0.05, 2), (0.03775, 2), (0.01325, 1), (0.001, 1)]
    assert run.model["w"].tolist() == [1.0 + 1.5 + 2.0 + 2.0]
    stored = [json.loads(text) for (text,) in run.closed("settings")]
    assert [(one["lr"], one["epochs"], one["server_lr"]) for one in stored] == [
        (0.05, 2, 1.0),
        (0.03775, 2, 1.5),
        (0.01325, 1, 2.0),
        (0.001, 1, 2.0),
    ]
    assert run.summary["settings"]["lr_schedule"] == "cosine:0.05:0.001:4"
    assert [change["settings"].get("lr") for change in run.summary["settings_by_round"]] == [
        0.05,
        0.03775,
        0.01325,
        0.001,
    ]


def test_a_run_without_schedules_records_and_says_what_it_always_did(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=1)
    fold(run)
    ((stored,),) = run.closed("settings")
    assert not [name for name in json.loads(stored) if name.endswith("_schedule")]
    assert "lr" in json.loads(stored)


def test_the_page_draws_what_a_schedule_moves_and_marks_no_round_as_changed(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=4, **PLANNED)
    for _ in range(4):
        fold(run)
    with History(run.folder) as history:
        shown = overview(history)
        assert "- lr_schedule: cosine:0.05:0.001:4" in (card := model_card(history, 4))
    assert (shown["changes"], "from round" in card) == ([], False)
    (series,) = shown["figures"]["curve setting lr"]["series"]
    assert (series["x"], series["y"]) == ([1, 2, 3, 4], [0.05, 0.03775, 0.01325, 0.001])
    assert "setting server_lr" in shown["curves"]
    assert "setting mu" not in shown["curves"]
    json.dumps(shown)


def test_files_that_were_read_at_the_start_may_be_gone_when_a_schedule_moves_on(begin: Begin, tmp_path: Path) -> None:
    own, workers = tmp_path / "own_step.py", tmp_path / "workers.txt"
    own.write_bytes((ROOT / "examples" / "own_step.py").read_bytes())
    workers.write_text("a\nb\n", encoding="utf-8")
    step = f"{own}:cut_momentum"
    run = begin(StateTask(ZERO), rounds=4, server_optimizer=step, workers_allowed=str(workers), **PLANNED)
    own.unlink()
    workers.unlink()
    rates = []
    for _ in range(4):
        rates.append(run.head.local.lr)
        fold(run)
    assert rates == [0.05, 0.03775, 0.01325, 0.001]
    assert run.aggregator.is_finished


def test_what_somebody_sets_counts_from_its_round_on_and_not_the_schedule(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=5, **PLANNED)
    fold(run)
    assert tell(run, "set lr=0.2") == (True, "from round 3 on: lr 0.2 (0.01325 before)")
    run.aggregator.close()
    run = begin(StateTask(ZERO), rounds=5, broker=run.broker, clock=run.clock, **PLANNED)
    seen = [run.head.local.lr]
    for _ in range(3):
        fold(run)
        seen.append(run.head.local.lr)
    assert seen == [0.03775, 0.2, 0.2, 0.2]
    assert run.head.local.epochs == 1  # which nobody has set
    with History(run.folder) as history:
        assert [change["text"] for change in history.changes()] == [
            "fl-run set lr=0.2",
            "lr 0.03775 → 0.2, lr_schedule cosine:0.05:0.001:4 → none",
        ]


def test_a_start_with_another_schedule_counts_more_than_what_was_set_before(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=5, lr_schedule="linear:0.1:0.5:5")
    tell(run, "set lr=0.9")
    fold(run)
    assert run.head.local.lr == 0.9
    run.aggregator.close()
    run = begin(StateTask(ZERO), rounds=5, broker=run.broker, clock=run.clock, lr_schedule="linear:0.2:1:5")
    fold(run)
    assert run.head.local.lr == 0.6


def test_neither_a_kill_between_two_rounds_nor_another_number_of_rounds_changes_a_bit(begin: Begin) -> None:
    whole = begin(StateTask(ZERO), folder="whole", rounds=4, **PLANNED)
    for _ in range(4):
        fold(whole)
    run = begin(StateTask(ZERO), folder="killed", rounds=2, **PLANNED)
    fold(run)
    for number in (2, 3, 4):
        run.settings = run.settings.model_copy(update={"rounds": number})
        run.aggregator.close()
        run = begin(StateTask(ZERO), folder="killed", broker=run.broker, clock=run.clock, rounds=number, **PLANNED)
        fold(run)
    columns = "round, model_sha256, settings"
    assert run.closed(columns) == whole.closed(columns)


def test_sites_of_a_simulation_train_as_the_schedule_says(tmp_path: Path) -> None:
    class Remembers:
        """A task that says with what it trained."""

        def __init__(self, site: object) -> None:
            self.task = StateTask(ZERO)
            self.model, self.evaluate = self.task.model, self.task.evaluate

        def train(self, model: object, plan: object) -> dict[str, float]:
            return {"num_samples": 1, "lr": plan.lr, "epochs": plan.epochs}  # type: ignore[attr-defined]

    history = simulate(Remembers, workers=2, rounds=3, state=str(tmp_path / "run"), **PLANNED)
    with history:
        assert [row["train.lr"] for row in history.rounds()] == [0.05, 0.03775, 0.01325]
        assert [row["train.epochs"] for row in history.rounds()] == [2, 2, 1]


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({"sample_schedule": "linear:0.2:1:3"}, ["0.2", "0.6", "1.0", "1.0"]),
        ({"sample_schedule": "linear:2:4:3"}, ["2", "3", "4", "4"]),
        ({"sample_schedule": "linear:2:4:3", "sample": "9x1.5"}, ["2x1.5", "3x1.5", "4x1.5", "4x1.5"]),
        ({"sample_schedule": "step:0.5@2", "sample": "10x1.3"}, ["10x1.3", "5x1.3", "5x1.3", "5x1.3"]),
        ({"sample_schedule": "warmup:2", "sample": "50%"}, ["0.25", "0.5", "0.5", "0.5"]),
    ],
)
def test_a_sample_follows_a_schedule_as_a_share_or_as_a_count(settings: dict[str, str], texts: list[str]) -> None:
    scheduled = AggregatorSettings.model_validate(settings).schedules["sample"]
    assert [scheduled.text_at(number) for number in (1, 2, 3, 4)] == texts


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sample_schedule": "warmup:2"}, "multiplies sample, which is not given"),
        ({"sample_schedule": "linear:0.5:1.5:3"}, "sample may become 1.5; expected a share"),
        ({"sample_schedule": "linear:0.5:0:3"}, "sample may become 0; expected a share"),
        ({"sample_schedule": "linear:5:2:3", "quorum": "4"}, "--quorum 4 cannot be reached with --sample 2"),
    ],
)
def test_a_sample_that_cannot_be_in_some_round_is_refused_at_the_start(settings: dict[str, str], problem: str) -> None:
    with pytest.raises(ValidationError) as error:
        AggregatorSettings.model_validate(settings)
    assert problem in str(error.value)


def test_what_somebody_sets_has_to_go_with_all_later_rounds(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=5, quorum="1", sample_schedule="linear:5:2:4")
    accepted, text = tell(run, "set quorum=3")
    assert (accepted, "--quorum 3 cannot be reached with --sample 2" in text) == (False, True)
    assert tell(run, "set quorum=2")[0]


def test_the_sites_of_a_simulation_take_part_as_the_schedule_says(tmp_path: Path) -> None:
    with simulate(
        "breast-cancer", workers=6, rounds=4, sample_schedule="linear:2:6:3", state=str(tmp_path / "run")
    ) as history:
        assert [row["num_folded"] for row in history.rounds()] == [2, 4, 6, 6]
        assert history.scheduled()["sample"] == {1: 2, 2: 4, 3: 6, 4: 6}
