"""Where a worker trains. The processor stands in for several GPUs; that there are some is pretended."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from broker.states.tensors import State, digest_of
from console.errors import TaskError
from learning import Plan, Site, Split, Supervised
from learning.devices import Parallel, deterministic
from worker.device import Devices
from worker.rounds.trainer import Trainer
from worker.settings import WorkerSettings

PLAN = Plan(round=1, seed=7, epochs=2, batch_size=6, lr=0.1, momentum=0.9)
TWO = ("cpu:0", "cpu:1")
"""Both are the processor, by names that no worker is given."""


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")


def found(text: str) -> tuple[str, ...]:
    return Devices.parse(text).found()


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("auto", ("cuda",)),
        ("cpu", ("cpu",)),
        ("cuda", ("cuda",)),
        ("cuda:1", ("cuda:1",)),
        ("cuda:0,1", ("cuda:0", "cuda:1")),
        ("cuda:1,0", ("cuda:1", "cuda:0")),
    ],
)
def test_devices_are_found_in_the_order_in_which_they_are_named(text: str, devices: tuple[str, ...]) -> None:
    assert found(text) == devices
    assert str(WorkerSettings(device=text).device) == text


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_told_with_those_that_are() -> None:
    told = "--device cuda:0,2: there is no cuda:2 here; PyTorch sees cuda:0 (Card 0), cuda:1 (Card 1)"
    with pytest.raises(TaskError, match=f"^{re.escape(told)}"):
        found("cuda:0,2")


@pytest.mark.parametrize(
    ("build", "hint"), [("12.4", "see nvidia-smi, and CUDA_VISIBLE_DEVICES"), (None, "without CUDA")]
)
def test_without_a_gpu_the_line_says_what_to_look_at(
    monkeypatch: pytest.MonkeyPatch, build: str | None, hint: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(TaskError, match=f"--device cuda: there is no cuda:0 here; PyTorch sees .*cpu.*{hint}"):
        found("cuda")
    if not torch.backends.mps.is_available():
        with pytest.raises(TaskError, match="--device mps: there is no mps here; PyTorch sees cpu"):
            found("mps")


def test_auto_is_a_device_that_works() -> None:
    assert torch.zeros(1, device=found("auto")[0]).item() == 0.0


def data(site: Site) -> Split:
    inputs = torch.randn(31, 4, generator=torch.Generator().manual_seed(0))
    return Split(train=(inputs, (inputs.sum(dim=1) > 0).long()))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


TASK = Supervised(model=network, data=data, loss=cross_entropy)(Site(name="a"))
STATE: State = network().state_dict()


def trained_on(*devices: str, task: Any = TASK) -> State:
    return Trainer(task, devices=devices).train(STATE, PLAN).delta


def test_on_two_devices_the_delta_is_that_of_one_but_for_the_last_digits_and_the_same_each_time() -> None:
    one, two = trained_on("cpu"), trained_on(*TWO)
    assert digest_of(two) == digest_of(trained_on(*TWO))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_delta_that_is_made_on_a_device_has_the_bits_of_one_that_is_made_here() -> None:
    assert digest_of(trained_on("cpu:0")) == digest_of(trained_on("cpu"))


class Own:
    """A task with a loop of its own, which may not know of several devices."""

    def __init__(self, *, knows: bool) -> None:
        self._knows = knows
        self.parallel: Any = None

    def model(self) -> nn.Module:
        return network()

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        net = plan.parallel(model) if self._knows else model
        self.parallel = plan.parallel
        net(torch.ones(4, 4)).sum().backward()
        return {"num_samples": 1}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {}


def test_a_task_that_leaves_all_but_one_device_idle_is_told_so() -> None:
    trained_on(*TWO, task=Own(knows=True))
    with pytest.raises(TaskError, match=r"never called plan\.parallel\(\), and --device names cpu:0, cpu:1: before"):
        trained_on(*TWO, task=Own(knows=False))


def test_on_one_device_the_model_is_called_itself() -> None:
    task, model = Own(knows=True), network()
    trained_on("cpu", task=task)
    assert not isinstance(task.parallel, Parallel)
    assert task.parallel(model) is model


def test_a_training_that_is_cancelled_before_its_first_batch_is_not_told_of_idle_devices() -> None:
    trainer = Trainer(Own(knows=False), devices=TWO)
    trainer.train(STATE, replace(PLAN, cancelled=lambda: True))


def test_deterministic_algorithms_are_chosen_within_and_not_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def state() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark

    before = state()
    with deterministic(is_wanted=False):
        assert state() == before
    with deterministic(is_wanted=True):
        assert state() == (True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            torch.ones(3).put_(torch.tensor([0]), torch.tensor([1.0]), accumulate=False)
    assert state() == before
