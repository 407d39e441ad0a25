"""What a simulated worker keeps on its model or task stays with it, as in a process of its own."""

import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.memory import MemoryBroker, MemoryTransport
from broker.wire.topology import Topology
from console.errors import ExitCode, TaskError
from learning import Plan, Site, at_site
from simulation.cli import main
from simulation.embedded import run_embedded
from simulation.own_models import OwnModels
from simulation.slot import LocalSlot

NUM_WORKERS = 3
pytestmark = pytest.mark.timeout(120)


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1)
        self.num_trained = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.head(self.norm(self.body(inputs)))
        return outputs


class Plain:
    """Each kind of task below keeps one thing that others must not see."""

    def __init__(self, site: Site) -> None:
        self.site = site

    @property
    def is_one(self) -> bool:
        return self.site.name == "worker-1"

    def model(self) -> nn.Module:
        return Net()

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        inputs = torch.randn(8, 2)
        for _ in range(2):
            loss = (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
        return {"num_samples": 8}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {}


class Freezes(Plain):
    def train(self, model: Any, plan: Plan) -> Mapping[str, float]:
        if self.is_one:
            model.body.requires_grad_(False)
        return super().train(model, plan)


class Counts(Plain):
    def train(self, model: Any, plan: Plan) -> Mapping[str, float]:
        model.num_trained += 1
        metrics = super().train(model, plan)
        with torch.no_grad():
            model.head.bias += model.num_trained
        return metrics


class Hooks(Plain):
    def train(self, model: Any, plan: Plan) -> Mapping[str, float]:
        if self.is_one and plan.round == 1:
            model.body.register_forward_hook(lambda module, inputs, outputs: 2 * outputs)
        return super().train(model, plan)


class ItsOwnNet(Plain):
    def model(self) -> nn.Module:
        self.net = Net()
        return self.net

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        assert model is self.net
        return super().train(self.net, plan)


class Exchanges(Plain):
    """Another module of the same shapes in its place: the state's tensors are others from then on."""

    def train(self, model: Any, plan: Plan) -> Mapping[str, float]:
        if self.is_one:
            model.head, model.activation = nn.Linear(3, 1), nn.ReLU()
            model.body = nn.Linear(2, 3)
        return super().train(model, plan)


class OneOptimizer(Plain):
    """Adam for all rounds, over the parameters as they were in the first."""

    optimizer: torch.optim.Optimizer | None = None

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        self.optimizer = self.optimizer or torch.optim.Adam(model.parameters(), lr=0.1)
        self.optimizer.zero_grad()
        model(torch.randn(8, 2)).square().mean().backward()
        self.optimizer.step()
        return {"num_samples": 8}


def digest(kind: Callable[[Site], Plain], folder: Path, slots: list[list[int]]) -> str:
    """Of the last model of a run whose workers take turns in these slots."""
    settings = AggregatorSettings(task="own", rounds=3, quorum=str(NUM_WORKERS), state=folder)
    broker = MemoryBroker()
    with closing(Aggregator(settings.config, kind(Site()), MemoryTransport(broker))) as aggregator:
        made = [slot_of({f"worker-{index}": kind(Site(name=f"worker-{index}")) for index in slot}) for slot in slots]
        run_embedded(aggregator, broker, made)
    return hashlib.sha256((folder / "models" / "round-00003.safetensors").read_bytes()).hexdigest()


def slot_of(tasks: Mapping[str, Plain]) -> LocalSlot:
    return LocalSlot(tasks, topology=Topology("updates"), inline_cap=2**20)


@pytest.mark.parametrize("kind", [Plain, Freezes, Counts, Hooks, ItsOwnNet, Exchanges, OneOptimizer])
def test_workers_of_one_slot_come_to_what_workers_of_their_own_slots_come_to(kind: type[Plain], tmp_path: Path) -> None:
    alone = digest(kind, tmp_path / "alone", [[0], [1], [2]])
    assert digest(kind, tmp_path / "together", [[0, 1, 2]]) == alone
    if kind not in (Plain, ItsOwnNet):  # what it keeps makes a difference
        assert alone != digest(Plain, tmp_path / "plain", [[0, 1, 2]])


class Small(Plain):
    def model(self) -> nn.Module:
        module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        module[2].weight = module[0].weight
        module.register_buffer("table", torch.arange(4.0), persistent=False)  # loading a state leaves it as it is
        return module


def storages(module: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}


def test_models_lie_in_one_memory_and_tied_weights_stay_tied() -> None:
    models = OwnModels()
    one, other = (models.of(name, Small(Site(name=name))) for name in ("worker-0", "worker-1"))
    assert storages(one) == storages(other)
    assert len({*storages(one).values()}) == len(storages(one)) - 1
    assert other.get_parameter("2.weight") is other.get_parameter("0.weight")
    assert other.get_parameter("0.weight") is not one.get_parameter("0.weight")
    assert other.get_buffer("table").data_ptr() != one.get_buffer("table").data_ptr()


class Views(Small):
    def model(self) -> nn.Module:
        module = super().model()
        self.seen = module.get_parameter("0.bias").detach()
        return module


class KeepsItsHead(nn.Linear):
    def _load_from_state_dict(self, *args: Any) -> None:
        """The site's own stays."""


class Personal(Small):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 3), KeepsItsHead(3, 1))


@pytest.mark.parametrize(
    ("kind", "own"), [(Views, {"0.bias"}), (Personal, {"0.weight", "0.bias", "1.weight", "1.bias"})]
)
def test_what_others_refer_to_or_loading_leaves_out_has_memory_of_its_own(kind: type[Plain], own: set[str]) -> None:
    models = OwnModels()
    one, other = (storages(models.of(name, kind(Site(name=name)))) for name in ("worker-0", "worker-1"))
    assert {name for name in one if one[name] != other[name]} == own


def test_a_module_that_a_task_gives_to_several_workers_is_copied() -> None:
    class OneForAll(Plain):
        backbone = nn.Linear(2, 3)

        def model(self) -> nn.Module:
            return nn.Sequential(self.backbone, nn.Linear(3, 1))

    models = OwnModels()
    one, other = (models.of(name, OneForAll(Site(name=name))) for name in ("worker-0", "worker-1"))
    assert one.get_submodule("0") is OneForAll.backbone
    assert not {id(part) for part in one.modules()} & {id(part) for part in other.modules()}
    assert not {id(part) for part in one.parameters()} & {id(part) for part in other.parameters()}

    OneForAll.backbone.lock = (line for line in ["cannot be copied"])  # type: ignore[assignment]
    with pytest.raises(TaskError, match=r"gave worker-2 what worker-0 trains.*make a new model in each call"):
        models.of("worker-2", OneForAll(Site(name="worker-2")))


def test_an_object_that_is_a_task_is_another_one_at_each_site() -> None:
    found = Counts(Site())
    one, other = (at_site(found, Site(name=name), "found", own=True) for name in ("worker-0", "worker-1"))
    assert len({id(task) for task in (found, one, other)}) == 3
    assert at_site(found, Site(name="worker-0"), "found") is found
    found.lines = (line for line in ["cannot be copied"])  # type: ignore[attr-defined]
    with pytest.raises(TaskError, match="give a class, or a function that takes the site"):
        at_site(found, Site(name="worker-0"), "found", own=True)


def test_a_site_whose_model_is_another_one_is_named_before_anybody_trains(tmp_path: Path) -> None:
    trained = []

    class Wider(Plain):
        def model(self) -> nn.Module:
            return Net(4 if self.is_one else 3)

        def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
            trained.append(self.site.name)
            return super().train(model, plan)

    with pytest.raises(TaskError, match=r"^worker-1: .*'body\.bias' of shape \[3\], not \[4\]"):
        digest(Wider, tmp_path / "run", [[0, 1, 2]])
    assert trained == []


TASK = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

class Stateful:
    def __init__(self): self.num_trained = 0

    def model(self):
        self.net = NET
        return NET

    def train(self, model, plan):
        self.num_trained += 1
        inputs = torch.arange(16.0).reshape(8, 2) % 5
        first = torch.rand(1).item() > 0.5
        model[0].requires_grad_(first)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for (batch,) in DataLoader(TensorDataset(inputs), batch_size=4, shuffle=True, num_workers=2):
            optimizer.zero_grad()
            (model(batch) - self.num_trained).square().mean().backward()
            optimizer.step()
        return {"num_samples": 8, "num_trained": self.num_trained}

    def evaluate(self, model):
        return {}

task = Stateful()
"""


@pytest.fixture
def signals_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_as_they_were")
def test_a_task_with_state_and_data_workers_comes_to_one_digest_in_one_process_and_with_one_for_each_worker(
    tmp_path: Path,
) -> None:
    finals = []
    for jobs in ("1", "3"):
        path = tmp_path / f"stateful_{jobs}.py"  # its net is made anew
        path.write_text(TASK, encoding="utf-8")
        flags = ["--task", f"{path}:task", "--workers", "3", "--rounds", "2", "--no-baselines"]
        assert main([*flags, "--jobs", jobs, "--state", str(tmp_path / jobs)]) == ExitCode.OK
        finals.append(json.loads((tmp_path / jobs / "summary.json").read_text(encoding="utf-8"))["final"])
    assert finals[0] == finals[1]
    assert finals[0]["worker_metrics"]["train.num_trained"] == 2
