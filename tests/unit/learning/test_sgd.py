import subprocess
import sys

import pytest
import torch
from torch import nn

from learning.optimizers import SGD


def net() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 40), nn.Tanh(), nn.Linear(40, 3), nn.Linear(3, 3, bias=False))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer | SGD, *, num_steps: int = 7) -> list[torch.Tensor]:
    """All parameters after some steps, of which every other one does without the last layer."""
    values = torch.randn(num_steps, 4, 5, generator=torch.Generator().manual_seed(1))
    for step in range(num_steps):
        optimizer.zero_grad()
        layers = list(model.children())
        outputs = nn.Sequential(*layers[: 3 + step % 2])(values[step])
        outputs.square().sum().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_torch_to_the_bit(momentum: float) -> None:
    ours, theirs = net(), net()
    one = trained(ours, SGD(list(ours.parameters()), lr=0.03, momentum=momentum))
    other = trained(theirs, torch.optim.SGD(theirs.parameters(), lr=0.03, momentum=momentum))
    assert all(torch.equal(mine, yours) for mine, yours in zip(one, other, strict=True))
    assert not torch.equal(one[0], next(iter(net().parameters())))


def test_sparse_gradients_are_taken() -> None:
    ours, theirs = nn.Embedding(9, 3, sparse=True), nn.Embedding(9, 3, sparse=True)
    theirs.load_state_dict(ours.state_dict())
    for model, optimizer in (
        (ours, SGD(list(ours.parameters()), lr=0.1)),
        (theirs, torch.optim.SGD(theirs.parameters(), lr=0.1)),
    ):
        model(torch.tensor([1, 4, 4])).sum().backward()
        optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_a_model_without_parameters_is_an_error() -> None:
    with pytest.raises(ValueError, match="no parameters"):
        SGD([], lr=0.1)


_TRAINS = """
import sys, torch
from learning.task import Plan
from learning.training import train
plan = Plan(round=1, seed=1, epochs=1, batch_size=4, lr=0.1, momentum=0.9)
samples = (torch.ones(8, 3), torch.zeros(8, dtype=torch.int64))
train(torch.nn.Linear(3, 2), samples, plan, loss=torch.nn.functional.cross_entropy)
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.timeout(120)
def test_a_training_imports_no_compiler() -> None:
    ran = subprocess.run([sys.executable, "-c", _TRAINS], capture_output=True, text=True, check=True, timeout=100)
    assert ran.stdout.strip() == "False"
