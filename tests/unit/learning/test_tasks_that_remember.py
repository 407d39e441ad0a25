"""MOON and APFL, the examples on ``plan.memory``: their equations, and that the second round goes on from the first."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from examples.apfl import Apfl
from examples.moon import Moon, contrast
from learning import Plan, Site
from simulation import simulate

EXAMPLES = Path(__file__).parents[3] / "examples"
SITE = Site(name="site-a", partition="iid", index=0, num_sites=10)


def plan(memory: dict[str, Any], number: int, **given: Any) -> Plan:
    """One step of all samples of the site, so that it can be done by hand."""
    return Plan(round=number, seed=number, lr=0.1, batch_size=0, max_steps=1, memory=memory, **given)


def model_of(task: Moon | Apfl, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return task.model()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stepped(state: dict[str, Tensor], loss_at: Callable[[dict[str, Tensor]], Tensor]) -> dict[str, Tensor]:
    """One step of gradient descent at 0.1."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in state.items()}
    gradients = torch.autograd.grad(loss_at(leaves), list(leaves.values()))
    return {name: leaf.detach() - 0.1 * g for (name, leaf), g in zip(leaves.items(), gradients, strict=True)}


def test_moon_contrasts_by_cosine_and_temperature() -> None:
    ours, near, far = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    by_hand = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(0 / 0.5)))
    assert contrast(ours, near, far, 0.5).item() == pytest.approx(by_hand, abs=1e-6)
    assert contrast(ours, far, near, 0.5).item() == pytest.approx(by_hand + 2, abs=1e-6)
    assert contrast(ours, near, near, 0.5).item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.timeout(60)
def test_moon_contrasts_with_the_model_that_its_site_trained_last() -> None:
    task, memory = Moon(SITE), {}
    first, second = model_of(task, 1), model_of(task, 2)
    assert task.train(first, plan(memory, 1))["contrast"] == 0
    assert same(memory, first.state_dict())

    images, labels = task.split.train
    received, previous = copy.deepcopy(second).requires_grad_(False), first.requires_grad_(False)

    def loss_at(values: dict[str, Tensor]) -> Tensor:
        features = functional_call(second[:-1], {n: v for n, v in values.items() if not n.startswith("7.")}, images)
        outputs = nn.functional.linear(features, values["7.weight"], values["7.bias"])
        far = contrast(features, received[:-1](images), previous[:-1](images), 0.5)
        return cross_entropy(outputs, labels) + 3 * far

    by_hand = stepped(dict(second.named_parameters()), loss_at)
    assert task.train(second, plan(memory, 2, args={"mu": "3"}))["contrast"] > 0
    for name, tensor in second.state_dict().items():
        assert torch.allclose(tensor, by_hand[name], atol=1e-6), name
    assert same(memory, second.state_dict())


@pytest.mark.timeout(60)
def test_apfl_steps_both_models_as_algorithm_1_does() -> None:
    task, memory = Apfl(SITE), {}
    images, labels = task.split.train
    own = None
    for number in (1, 2):
        model = model_of(task, number)

        def loss_at(values: dict[str, Tensor], model: nn.Module = model) -> Tensor:
            return cross_entropy(functional_call(model, values, images), labels)

        received = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
        own = received if own is None else own

        def loss_mixed(values: dict[str, Tensor], received: dict[str, Tensor] = received) -> Tensor:
            return loss_at({name: 0.25 * v + 0.75 * received[name] for name, v in values.items()})

        by_hand, own = stepped(received, loss_at), stepped(own, loss_mixed)
        metrics = task.train(model, plan(memory, number, args={"alpha": "0.25"}))
        for name, tensor in model.state_dict().items():
            assert torch.allclose(tensor, by_hand[name], atol=1e-6), name
            assert torch.allclose(memory[name], own[name], atol=1e-6), name
    assert not torch.allclose(memory["0.weight"], model.state_dict()["0.weight"], atol=1e-3)

    personal = copy.deepcopy(model)
    personal.load_state_dict({name: 0.25 * memory[name] + 0.75 * w for name, w in model.state_dict().items()})
    assert metrics["personal.loss"] == pytest.approx(task.evaluate(personal)["loss"], abs=1e-6)
    assert metrics["personal.loss"] != pytest.approx(task.evaluate(model)["loss"], abs=1e-3)


def test_apfl_refuses_an_alpha_that_is_no_share() -> None:
    task = Apfl(SITE)
    with pytest.raises(ValueError, match="alpha is a share from 0 to 1, not 2"):
        task.train(task.model(), plan({}, 1, args={"alpha": "2"}))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("example", ["moon", "apfl"])
def test_in_a_run_the_second_round_goes_on_from_the_first(example: str, tmp_path: Path) -> None:
    few: dict[str, Any] = {"workers": 2, "partition": "dirichlet:0.1", "rounds": 2, "max_steps": 10}
    digests = []
    for name in ("one", "again"):
        with simulate(f"{EXAMPLES / example}.py:task", state=tmp_path / name, **few) as history:
            first, second = history.rounds()
        digests.append(second["model_sha256"])
    assert digests[0] == digests[1]
    if example == "moon":
        assert first["train.contrast"] == 0 < second["train.contrast"]
    else:
        assert second["train.personal.accuracy"] > first["eval.accuracy"]
        assert second["train.personal.loss"] < first["train.personal.loss"]
