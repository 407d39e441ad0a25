"""One local training: a state and a plan in, a delta out."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from broker.states.tensors import digest_of, specs_of
from broker.wire import MAX_METRICS, MAX_NUM_SAMPLES
from broker.wire.messages import UpdateHead
from console.errors import TaskError
from learning import Measured, Plan, Site, Split, Supervised
from worker.rounds.trainer import Diverged, Trainer, derived_seed

PLAN = Plan(round=1, seed=7, epochs=2, batch_size=4, lr=0.1, momentum=0.9)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))


def data(site: Site) -> Split:
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    samples = (inputs, (inputs.sum(dim=1) > 0).long())
    return Split(train=samples, test=samples)


TASK = Supervised(model=network, data=data, loss=cross_entropy)(Site(name="a"))
STATE = network().state_dict()


class Scripted:
    """A task that does to its model, and says of it, what a test wants."""

    def __init__(
        self,
        metrics: Mapping[str, Any],
        change: Callable[[nn.Module, Plan], object] = lambda model, plan: None,
        evaluation: Mapping[str, float] | None = None,
    ) -> None:
        self._metrics, self._change, self._evaluation = metrics, change, evaluation or {}

    def model(self) -> nn.Module:
        return nn.BatchNorm1d(2)

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        self._change(model, plan)
        return self._metrics

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return self._evaluation


def scripted(metrics: Mapping[str, Any], change: Callable[[nn.Module, Plan], object] = lambda model, plan: None) -> Any:
    trainer = Trainer(Scripted(metrics, change))
    return trainer.train(nn.BatchNorm1d(2).state_dict(), PLAN)


def test_the_same_state_and_plan_give_the_same_bits() -> None:
    digests = set()
    for _ in range(2):
        trainer = Trainer(TASK)
        for _ in range(2):
            digests.add(digest_of(trainer.train(STATE, PLAN).delta))
    assert len(digests) == 1


def test_another_seed_gives_another_delta() -> None:
    trainer = Trainer(TASK)
    first = trainer.train(STATE, PLAN)
    assert digest_of(trainer.train(STATE, replace(PLAN, seed=8)).delta) != digest_of(first.delta)


def test_evaluating_between_does_not_change_what_training_gives() -> None:
    plain, curious = Trainer(TASK), Trainer(TASK)
    curious.evaluate(STATE)
    assert digest_of(curious.train(STATE, PLAN).delta) == digest_of(plain.train(STATE, PLAN).delta)


def test_training_leaves_the_received_state_as_it_was() -> None:
    before = digest_of(STATE)
    Trainer(TASK).train(STATE, PLAN)
    assert digest_of(STATE) == before


def test_the_delta_is_trained_minus_received() -> None:
    def change(model: nn.Module, plan: Plan) -> None:
        model.load_state_dict(
            {
                "weight": torch.tensor([1.5, 0.0]),
                "bias": torch.tensor([0.0, 2.0]),
                "running_mean": torch.tensor([0.25, 0.0]),
                "running_var": torch.tensor([1.0, 3.0]),
                "num_batches_tracked": torch.tensor(4),
            }
        )

    trained = scripted({"num_samples": 3, "loss": 0.5}, change)
    assert {name: tensor.tolist() for name, tensor in trained.delta.items()} == {
        "weight": [0.5, -1.0],
        "bias": [0.0, 2.0],
        "running_mean": [0.25, 0.0],
        "running_var": [0.0, 2.0],
        "num_batches_tracked": 4,
    }
    assert (trained.num_samples, trained.metrics) == (3, {"loss": 0.5})
    assert trained.train_s >= 0


def test_integers_travel_wide_and_booleans_stay() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.tensor([250], dtype=torch.uint8))
            self.register_buffer("mask", torch.tensor([True]))

    class Task(Scripted):
        def model(self) -> nn.Module:
            return Counting()

    def change(model: nn.Module, plan: Plan) -> None:
        model.n -= 249  # type: ignore[operator]

    trained = Trainer(Task({"num_samples": 1}, change)).train(Counting().state_dict(), PLAN)
    assert trained.delta.keys() == {"n"}
    assert (trained.delta["n"].dtype, trained.delta["n"].tolist()) == (torch.int64, [-249])


def test_torch_numpy_and_python_are_seeded_from_the_plan() -> None:
    drawn: list[tuple[float, float, float]] = []

    def change(model: nn.Module, plan: Plan) -> None:
        drawn.append((torch.rand(1).item(), float(np.random.rand()), random.random()))

    for _ in range(2):
        scripted({"num_samples": 1}, change)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        ((0, 1, "site-a"), 2654772326314993280),
        ((42, 3, "worker-0"), 4454874465461482760),
        ((2**63 - 1, 2**31, "x" * 64), 2604280430673271869),
    ],
)
def test_a_derived_seed_is_the_same_for_ever(arguments: tuple[int, int, str], seed: int) -> None:
    assert derived_seed(*arguments) == seed


def test_derived_seeds_differ_by_run_round_and_worker_and_fit_torch() -> None:
    seeds = {derived_seed(*each) for each in [(0, 1, "a"), (1, 1, "a"), (0, 2, "a"), (0, 1, "b"), (0, 11, "a")]}
    assert len(seeds) == 5
    for seed in seeds:
        assert 0 <= seed < 2**63
        torch.manual_seed(seed)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_training_into_nan_is_diverged_and_names_the_tensor(bad: float) -> None:
    def change(model: nn.Module, plan: Plan) -> None:
        nn.init.constant_(model.bias, bad)  # type: ignore[arg-type]

    with pytest.raises(Diverged, match="NaN or infinity in 'bias'; a smaller --lr may help"):
        scripted({"num_samples": 1}, change)


@pytest.mark.parametrize(
    ("begins", "becomes", "said"),
    [
        (1.0, float("nan"), "training gave NaN or infinity in 'running_var', which has no mean"),
        (float("inf"), 1.0, "training changed NaN or infinity in 'running_var', which has no mean"),
    ],
)
def test_a_buffer_that_cannot_be_averaged_is_named_with_the_way_out(begins: float, becomes: float, said: str) -> None:
    def change(model: nn.Module, plan: Plan) -> None:
        model.running_var.fill_(becomes)  # type: ignore[operator, union-attr]

    state = nn.BatchNorm1d(2).state_dict() | {"running_var": torch.tensor([begins, 1.0])}
    with pytest.raises(Diverged, match=f"{said}.*--shared '!running_var' leaves it at the sites"):
        Trainer(Scripted({"num_samples": 1}, change)).train(state, PLAN)


def test_a_personal_parameter_that_becomes_nan_is_not_kept() -> None:
    def change(model: nn.Module, plan: Plan) -> None:
        nn.init.constant_(model.bias, float("nan"))  # type: ignore[arg-type]

    trainer = Trainer(Scripted({"num_samples": 1}, change))
    shared = tuple(spec for spec in trainer.specs if spec.name == "weight")
    with pytest.raises(Diverged, match="NaN or infinity in 'bias'; a smaller --lr may help"):
        trainer.train(nn.BatchNorm1d(2).state_dict(), PLAN, shared)


def test_after_a_diverged_training_the_next_one_is_as_if_nothing_had_been() -> None:
    trainer = Trainer(TASK)
    expected = digest_of(trainer.train(STATE, PLAN).delta)
    with pytest.raises(Diverged):
        trainer.train(STATE, replace(PLAN, lr=1e30))
    assert digest_of(trainer.train(STATE, PLAN).delta) == expected


@pytest.mark.parametrize("value", [None, 0, -1, 0.5, 1.5, MAX_NUM_SAMPLES + 1, float("nan"), float("inf")])
def test_a_num_samples_that_is_no_weight_is_the_task_s_error(value: float | None) -> None:
    with pytest.raises(TaskError, match="must return num_samples"):
        scripted({} if value is None else {"num_samples": value})


@pytest.mark.parametrize("value", [1, 1.0, MAX_NUM_SAMPLES, np.int64(5), torch.tensor(3)])
def test_a_num_samples_of_any_number_type_is_fine(value: Any) -> None:
    assert scripted({"num_samples": value}).num_samples == int(value)


@pytest.mark.parametrize("name", ["", "a loss", "loss\n", "x" * 65, "ä", "loss;"])
def test_a_metric_whose_name_cannot_travel_is_the_task_s_error(name: str) -> None:
    with pytest.raises(TaskError, match="cannot travel"):
        scripted({"num_samples": 1, name: 0.5})
    with pytest.raises(TaskError, match="cannot travel"):
        Trainer(Scripted({}, evaluation={name: 0.5})).evaluate(nn.BatchNorm1d(2).state_dict())


def test_more_metrics_than_can_travel_are_the_task_s_error() -> None:
    """The header holds 64; what does not fit must be told to the person, not end in a traceback."""
    metrics = {f"m{number}": 0.5 for number in range(MAX_METRICS + 1)}
    with pytest.raises(TaskError, match="the task gave 65 metrics; at most 64 can travel"):
        scripted({"num_samples": 1} | metrics)


def test_as_many_metrics_as_can_travel_do() -> None:
    metrics = {f"m{number}": 0.5 for number in range(MAX_METRICS)}
    trained = scripted({"num_samples": 1} | metrics)
    assert trained.metrics == metrics
    delta = {"w": torch.zeros(1)}
    fields = {"tensors": specs_of(delta), "sha256": digest_of(delta), "run_id": "r", "worker": "a", "round": 1}
    UpdateHead(**fields, instance="00112233", num_samples=1, train_s=0, sent_at=0, train_metrics=trained.metrics)


def test_metrics_that_are_not_finite_stay() -> None:
    metrics = {"num_samples": 1, "loss": float("nan"), "best": float("inf"), "top-5@k/x.y": np.float32(0.5)}
    expected = {"top-5@k/x.y": 0.5, "loss": float("nan"), "best": float("inf")}
    assert scripted(metrics).metrics == pytest.approx(expected, nan_ok=True)


def test_a_site_without_test_data_evaluates_to_nothing() -> None:
    assert Trainer(Scripted({})).evaluate(nn.BatchNorm1d(2).state_dict()) == Measured()
    measured = Trainer(TASK).evaluate(STATE)
    assert measured.num_samples is not None
    assert measured.metrics.keys() == {"loss", "accuracy"}


def test_a_model_of_another_shape_is_a_misfit() -> None:
    trainer = Trainer(TASK)
    assert trainer.misfit(specs_of(STATE)) is None
    assert trainer.misfit(specs_of({"w": torch.zeros(1)})) is not None
