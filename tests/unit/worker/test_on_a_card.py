"""Training on a GPU, where there is one: the same bits each time, and nearly those of the processor."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from broker.states.tensors import State, digest_of
from learning import Plan, Site, Split, Supervised
from learning.devices import deterministic
from worker.rounds.trainer import Trainer

NUM_CARDS = torch.cuda.device_count()
PLAN = {"round": 1, "seed": 7, "epochs": 2, "batch_size": 16, "lr": 0.05}
pytestmark = pytest.mark.skipif(NUM_CARDS == 0, reason="PyTorch sees no GPU here")


def data(site: Site) -> Split:
    inputs = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Split(train=(inputs, (inputs.sum(dim=(1, 2, 3)) > 0).long()))


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))


TASK = Supervised(model=network, data=data, loss=cross_entropy)(Site(name="a"))
STATE: State = network().state_dict()


def trained_on(*devices: str) -> State:
    with deterministic(is_wanted=True):
        delta = Trainer(TASK, devices=devices).train(STATE, Plan(device=devices[0], **PLAN)).delta  # type: ignore[arg-type]
    assert {str(tensor.device) for tensor in delta.values()} == {"cpu"}
    return delta


def test_a_card_gives_the_same_bits_each_time_and_the_processor_s_but_for_the_last_digits() -> None:
    once, here = trained_on("cuda:0"), trained_on("cpu")
    assert digest_of(once) == digest_of(trained_on("cuda:0"))
    for name, tensor in here.items():
        torch.testing.assert_close(once[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(NUM_CARDS < 2, reason="PyTorch sees fewer than two GPUs here")
def test_two_cards_give_the_same_bits_each_time() -> None:
    assert digest_of(trained_on("cuda:0", "cuda:1")) == digest_of(trained_on("cuda:0", "cuda:1"))
