"""A model on several devices. The processor stands in for each of them: no GPU is needed, and none is tried."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learning.devices.replicas import Replicas
from learning.task import Plan
from learning.training import train

TWO, THREE = ("cpu", "cpu"), ("cpu", "cpu", "cpu")


class Net(nn.Module):
    """Tied weights, a frozen layer, a parameter that nobody uses, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.idle = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, inputs: Tensor, *, shift: float = 0.0) -> Tensor:
        hidden = torch.tanh(self.first(inputs)) * self.scale
        return self.second(torch.tanh(self.frozen(hidden))) + shift


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    return Net()


def gradients(model: nn.Module, call: Callable[..., Tensor], inputs: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    call(inputs, shift=0.5).square().mean().backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("devices", [TWO, THREE])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 32])
def test_outputs_and_gradients_are_those_of_the_model_on_the_whole_batch(
    net: Net, devices: tuple[str, ...], size: int
) -> None:
    inputs, replicas = torch.randn(size, 4), Replicas(net, devices)
    torch.testing.assert_close(replicas(inputs, shift=0.5), net(inputs, shift=0.5))
    there, here = gradients(net, replicas, inputs), gradients(net, net, inputs)
    unused = {name for name, gradient in here.items() if gradient is None}
    assert unused == {name for name, gradient in there.items() if gradient is None}
    assert {"idle", "frozen.bias"} < unused
    for name in here.keys() - unused:
        torch.testing.assert_close(there[name], here[name])


def test_the_gradients_of_devices_are_added_up_in_their_order() -> None:
    """1e8 + 1 - 1e8 is 0 in float32 from left to right, and 1 in another order."""
    model = nn.Linear(1, 1, bias=False)
    inputs = torch.tensor([[1e8], [0.0], [1.0], [0.0], [-1e8], [0.0]])
    Replicas(model, THREE)(inputs).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.item() == float(torch.tensor(1e8) + torch.tensor(1.0) - torch.tensor(1e8)) == 0.0


def test_each_device_calls_the_model_with_its_part_alone() -> None:
    seen: list[int] = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    for size in (1, 2, 3, 4, 5, 7, 8):
        seen.append(-size)
        Replicas(model, THREE)(torch.ones(size, 2))
    assert seen == [-1, 1, -2, 2, -3, 3, -4, 2, 2, -5, 3, 2, -7, 3, 2, 2, -8, 3, 3, 2]


def test_statistics_of_a_batch_norm_are_those_of_the_first_part() -> None:
    model, alone = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    inputs = torch.randn(8, 2)
    Replicas(model, TWO)(inputs)
    alone(inputs[:4])
    assert torch.equal(torch.stack([*model.buffers()][:2]), torch.stack([*alone.buffers()][:2]))
    assert model.num_batches_tracked == 1


class Nested(nn.Module):
    def forward(self, batch: dict[str, Any], weights: Tensor, name: str) -> dict[str, Any]:
        hidden = batch["x"] @ weights
        return {"hidden": hidden, "pair": (hidden.sum(), [batch["ids"]]), "name": name}


def test_nested_inputs_are_split_and_nested_outputs_joined() -> None:
    batch = {"x": torch.arange(8.0).reshape(4, 2), "ids": torch.arange(4)}
    weights = torch.eye(2)
    given = Replicas(Nested(), TWO)(batch, weights[:, :1], name="mine")
    whole = Nested()(batch, weights[:, :1], "mine")
    assert torch.equal(given["hidden"], whole["hidden"])
    assert torch.equal(given["pair"][1][0], batch["ids"])
    assert given["pair"][0].tolist() == [0.0 + 2.0, 4.0 + 6.0]
    assert given["name"] == "mine"


def test_a_training_on_two_devices_is_that_on_one_but_for_the_last_digits() -> None:
    def trained(devices: tuple[str, ...]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        samples = (torch.randn(50, 4), torch.randint(3, (50,)))
        plan = Plan(round=1, seed=5, lr=0.1, mu=0.01, parallel=lambda module: Replicas(module, devices))
        train(model, samples, plan, loss=nn.functional.cross_entropy)
        return model.state_dict()

    one, two, again = trained(("cpu",)), trained(TWO), trained(TWO)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor)
        assert torch.equal(two[name], again[name])
