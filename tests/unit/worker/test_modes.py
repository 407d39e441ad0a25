"""The mode of a model, its gradients, and what a model keeps from one call to the next."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from aggregator.opening import CentralEvaluation
from broker.modules.model_tensors import ModelTensors
from broker.states.tensors import digest_of
from learning import Plan, Site, Split, Supervised
from worker.rounds.trainer import Trainer

PLAN = Plan(round=1, seed=7, epochs=1, batch_size=0, lr=0.1)
INPUTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


def descend(model: nn.Module, steps: int = 3) -> None:
    """Plain PyTorch, without a word about modes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        mse_loss(model(INPUTS), INPUTS[:, :1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


class Careless:
    """Sets no mode for training, leaves eval mode on, and its traces all over the model."""

    def model(self) -> nn.Module:
        return network().eval()  # as many a library hands out what it has loaded

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        descend(model)
        return {"num_samples": len(INPUTS)}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        model.eval()
        loss = mse_loss(model(INPUTS), INPUTS[:, :1])
        loss.backward()  # type: ignore[no-untyped-call]
        model.requires_grad_(False)
        torch.set_grad_enabled(False)
        return {"loss": loss.item()}


def test_dropout_and_batch_norm_train_as_in_plain_pytorch() -> None:
    torch.manual_seed(1)
    plain = network()
    state = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    trainer = Trainer(Careless())
    for _ in range(2):  # the second one after an evaluation that left the model in eval mode
        trainer.evaluate(state)
        delta = trainer.train(state, PLAN).delta

    torch.manual_seed(PLAN.seed)
    plain.train()
    descend(plain)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(delta[name], tensor - state[name]), name


def test_an_evaluation_is_in_eval_mode_and_leaves_nothing_behind() -> None:
    seen: list[Any] = []

    class Looks(Careless):
        def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
            assert torch.is_grad_enabled()
            seen.append([(p.requires_grad, p.grad) for p in model.parameters()])
            return super().train(model, plan)

        def evaluate(self, model: nn.Module) -> Mapping[str, float]:
            assert not any(module.training for module in model.modules())
            return super().evaluate(model)

    trainer = Trainer(Looks())
    state = network().state_dict()
    losses = [trainer.evaluate(state).metrics["loss"] for _ in range(2)]
    trainer.train(state, PLAN)
    assert losses[0] == losses[1]
    assert seen == [[(True, None)] * 6]


def test_the_aggregator_evaluates_in_eval_mode(tmp_path: Any) -> None:
    class Looks(Careless):
        def evaluate(self, model: nn.Module) -> Mapping[str, float]:
            return {"in_training": float(any(module.training for module in model.modules()))}

    class File:
        def state(self) -> Mapping[str, Tensor]:
            return network().state_dict()

    model = network()
    assert CentralEvaluation(Looks(), model, ModelTensors.of(model))(File()).metrics == {"in_training": 0}  # type: ignore[arg-type]


class Caching(nn.Module):
    """Computes a table once, in whichever call comes first, and multiplies by it ever after."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.table: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(1.0, 4.0)
        result: Tensor = self.linear(inputs * self.table)
        return result


@pytest.mark.parametrize("evaluates_first", [True, False])
def test_a_model_that_keeps_a_table_of_an_evaluation_can_be_trained(evaluates_first: bool) -> None:
    samples = (INPUTS, INPUTS[:, :1])
    split = Split(train=samples, test=samples)
    trainer = Trainer(Supervised(model=Caching, data=lambda site: split, loss=mse_loss)(Site(name="a")))
    torch.manual_seed(0)
    state = Caching().state_dict()
    if evaluates_first:
        trainer.evaluate(state)
    assert digest_of(trainer.train(state, PLAN).delta) == digest_of(Trainer(trainer._task).train(state, PLAN).delta)
