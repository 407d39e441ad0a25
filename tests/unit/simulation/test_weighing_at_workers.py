"""What workers say of their training where a run weighs by it: a task of the supervised kind, and one of one's own."""

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Adam
from unit.simulation.small_federation import SmallFederation

from console.errors import TaskError
from learning import Plan, Site, Split, Supervised
from worker.rounds.trainer import Trainer

SIZES = {"a": 5, "b": 20}


def data(site: Site) -> Split:
    if site.name is None:
        return Split()
    random = torch.Generator().manual_seed(len(site.name) + ord(site.name[0]))
    x = torch.randn(SIZES[site.name], 2, generator=random)
    return Split(train=(x, x @ torch.tensor([[1.0], [-2.0]])))


def problem(**changes: object) -> Callable[[str], object]:
    fields = {"model": lambda: nn.Linear(2, 1), "data": data, "loss": nn.functional.mse_loss} | changes
    supervised = Supervised(**fields)  # type: ignore[arg-type]
    return lambda name: supervised(Site(name=name or None))


def figures_of(run: SmallFederation) -> dict[str, dict[str, float]]:
    with closing(sqlite3.connect(run.folder / "ledger.sqlite")) as database:
        rows = database.execute("SELECT worker, figures FROM updates WHERE round = 1 AND verdict = 'folded'").fetchall()
    return {worker: json.loads(figures) for worker, figures in rows}


def test_supervised_learning_says_its_steps(tmp_path: Path) -> None:
    settings = {"weighting": "fednova", "epochs": 2, "batch_size": 5, "momentum": 0.9}
    run = SmallFederation(tmp_path, problem(), **settings).run()  # type: ignore[arg-type]
    plan = Plan(round=1, seed=0, lr=0.05, momentum=0.9)
    assert figures_of(run) == {
        "a": {"update_norm1": plan.update_norm1(2)},
        "b": {"update_norm1": plan.update_norm1(8)},
    }


def test_supervised_learning_says_how_the_received_model_fits(tmp_path: Path) -> None:
    run = SmallFederation(tmp_path, problem(), weighting="qfedavg", compression="int8", seed=3).run()  # type: ignore[arg-type]
    torch.manual_seed(3)
    model = nn.Linear(2, 1)
    for name, figures in figures_of(run).items():
        samples = data(Site(name=name)).train
        assert samples is not None
        assert figures["loss_before"] == pytest.approx(nn.functional.mse_loss(model(samples[0]), samples[1]).item())
        assert figures["norm"] > 0


def test_an_optimizer_of_one_s_own_has_no_such_number(tmp_path: Path) -> None:
    adam = problem(optimizer=lambda parameters, plan: Adam(parameters, lr=plan.lr))
    with pytest.raises(TaskError, match="must return update_norm1, by which this run weighs updates; for plain SGD"):
        SmallFederation(tmp_path, adam, weighting="fednova").run()  # type: ignore[arg-type]


class Own:
    def __init__(self, name: str, returned: Mapping[str, float]) -> None:
        self.step, self.returned = {"": 0.0, "a": 1.0, "b": 3.0}[name], returned

    def model(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        with torch.no_grad():
            model.weight += self.step
        return {"num_samples": 10, **self.returned}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {}


def test_a_task_weighs_its_own_updates(tmp_path: Path) -> None:
    weights = {"": 0.0, "a": 6.0, "b": 2.0}
    run = SmallFederation(
        tmp_path, lambda name: Own(name, {"aggregation_weight": weights[name]}), weighting="task", rounds=1
    ).run()
    moved = run.model(1)["weight"].double() - run.model(0)["weight"].double()
    assert moved.item() == pytest.approx((6 * 1 + 2 * 3) / 8, abs=1e-6)


@pytest.mark.parametrize("returned", [{}, {"aggregation_weight": 0}, {"aggregation_weight": float("nan")}])
def test_a_task_without_a_usable_weight_is_told(tmp_path: Path, returned: dict[str, float]) -> None:
    with pytest.raises(TaskError, match="aggregation_weight"):
        SmallFederation(tmp_path, lambda name: Own(name, returned), weighting="task").run()


@pytest.mark.parametrize("returned", [{}, {"update_norm1": 0.0}])
def test_a_training_that_is_cancelled_before_its_first_step_is_no_fault_of_the_task(returned: dict[str, float]) -> None:
    trainer = Trainer(Own("a", returned))
    state = {"weight": torch.zeros(1, 1)}
    plan = Plan(round=1, seed=0, lr=0.1, figures=frozenset({"update_norm1"}))
    assert trainer.train(state, replace(plan, cancelled=lambda: True)).figures == {}
    with pytest.raises(TaskError, match="update_norm1"):
        trainer.train(state, plan)


def test_updates_are_clipped_to_their_length(tmp_path: Path) -> None:
    run = SmallFederation(tmp_path, lambda name: Own(name, {}), clip_norm=2.0, rounds=1).run()
    moved = run.model(1)["weight"].double() - run.model(0)["weight"].double()
    assert moved.item() == pytest.approx((1 + 2) / 2, abs=1e-6)
