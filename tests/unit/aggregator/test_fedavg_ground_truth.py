"""What federated averaging must come to, known from elsewhere: descent on pooled data, and closed forms."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import StateTask, state_of

from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from aggregator.weighing import discount
from broker.memory import MemoryBroker, MemoryTransport
from broker.states.tensors import State, state_from
from broker.wire.codec import decode
from broker.wire.messages import ModelHead
from broker.wire.topology import Topology
from learning import Plan, Site, Split, Supervised, Task
from simulation.embedded import run_embedded
from simulation.slot import LocalSlot


def federate(folder: Path, server: Task, sites: Mapping[str, Task], **settings: object) -> State:
    """Runs a federation of these sites to its end over the embedded broker; returns the final model."""
    broker = MemoryBroker()
    fields = {"task": "mine", "state": folder, "quorum": str(len(sites)), "commit_every_s": 1e9} | settings
    chosen = AggregatorSettings(**fields)  # type: ignore[arg-type]
    slot = LocalSlot(sites, topology=Topology(chosen.queue), inline_cap=chosen.inline_cap)
    with closing(Aggregator(chosen.config, server, MemoryTransport(broker))) as aggregator:
        run_embedded(aggregator, broker, [slot])
    head, payload = decode(broker.heads[-1], ModelHead)
    assert head.is_finished
    body = b"".join(broker.blobs[head.blob.name]) if head.blob else bytes(payload)
    return state_from(bytearray(body), head.tensors)


SIZES = (3, 17, 40, 1)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def regression() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn(sum(SIZES), 5, generator=random)
    return inputs, torch.randn(sum(SIZES), 3, generator=random)


def classification() -> tuple[Tensor, Tensor]:
    inputs, _ = regression()
    return inputs, inputs[:, :3].argmax(dim=1)


@pytest.mark.parametrize("rounds", [1, 5])
@pytest.mark.parametrize("inline_cap", [2**20, 64])
@pytest.mark.parametrize(("data", "loss"), [(regression, mse_loss), (classification, cross_entropy)])
def test_one_full_batch_step_everywhere_is_one_step_of_descent_on_the_pooled_data(
    tmp_path: Path, rounds: int, inline_cap: int, data: object, loss: object
) -> None:
    """Sites of unequal size: the weights by samples are what makes it so. Inline and through blobs."""
    inputs, targets = data()  # type: ignore[operator]

    def split(site: Site) -> Split:
        if site.index is None:
            return Split()
        start = sum(SIZES[: site.index])
        part = slice(start, start + SIZES[site.index])
        return Split(train=(inputs[part], targets[part]))

    problem = Supervised(model=network, data=split, loss=loss)  # type: ignore[arg-type]
    sites = {f"w{i}": problem(Site(name=f"w{i}", index=i, num_sites=len(SIZES))) for i in range(len(SIZES))}
    local = {"epochs": 1, "batch_size": 0, "lr": 0.5, "momentum": 0.0}
    final = federate(
        tmp_path, problem(Site()), sites, rounds=rounds, seed=11, inline_cap=inline_cap, part_bytes=64, **local
    )

    torch.manual_seed(11)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(rounds):
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()  # type: ignore[operator]
        optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(final[name], tensor, rtol=0, atol=1e-6)


class Quadratic:
    """f1 = mu x^2 + G x, or f2 = -G x; float64, exact local gradient steps. It has no data: one sample counts."""

    def __init__(self, mu: float, slope: float, start: float = 0.0) -> None:
        self._mu, self._slope, self._start = mu, slope, start

    def model(self) -> nn.Module:
        model = nn.Module()
        model.x = nn.Parameter(torch.tensor(self._start, dtype=torch.float64))
        return model

    def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
        (x,) = model.parameters()
        for _ in range(plan.max_steps):
            with torch.no_grad():
                x -= plan.lr * (2 * self._mu * x + self._slope)
        return {"num_samples": 1}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


@pytest.mark.parametrize(
    ("num_steps", "rounds", "start", "fixed_point"), [(2, 100, 0.025, 0.0263157895), (10, 45, 0.0, 0.2676699664)]
)
def test_two_quadratics_drift_to_the_known_fixed_point(
    tmp_path: Path, num_steps: int, rounds: int, start: float, fixed_point: float
) -> None:
    """SCAFFOLD paper: x = K eta G / (1 - a^K) - G / (2 mu), a = 1 - 2 mu eta; the true optimum is 0."""
    mu, eta, a = 1.0, 0.05, 0.9
    assert num_steps * eta / (1 - a**num_steps) - 1 / (2 * mu) == pytest.approx(fixed_point, abs=1e-10)
    sites = {"one": Quadratic(mu, 1.0), "two": Quadratic(0.0, -1.0)}
    final = federate(tmp_path, Quadratic(mu, 1.0, start), sites, rounds=rounds, lr=eta, momentum=0, max_steps=num_steps)
    assert final["x"].item() == pytest.approx(fixed_point, abs=1e-7)


def test_fedbuff_s_three_aggregations_come_to_the_known_values(begin: Begin) -> None:
    """K = 2, s = 1/sqrt(1 + tau), divided by K: (base, delta) -> w = 0.75, 0.832842712475, 1.106047793232."""
    run = begin(StateTask(state_of(w=0.0)), quorum="2", weighting="uniform", max_staleness=5, rounds=9)
    steps = [((0, 1.0), (0, 0.5), 0.75), ((0, 0.8), (1, -0.4), 0.832842712475), ((0, 0.6), (2, 0.2), 1.106047793232)]
    for number, (*updates, expected) in enumerate(steps):
        for which, (base, delta) in enumerate(updates):
            run.send(f"w{number}-{which}", state_of(w=delta), round=base + 1, num_samples=1 + 7 * which)
        run.settle()
        assert run.model["w"].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("staleness", "factor"), [(0, 1.0), (1, 2**-0.5), (3, 0.5), (99, 0.1)])
def test_staleness_is_discounted_by_its_square_root(staleness: int, factor: float) -> None:
    assert discount(staleness) == pytest.approx(factor)


def test_a_model_with_batch_norm_and_odd_buffers_trains_through(tmp_path: Path) -> None:
    """Running statistics are averaged, the counter stays whole, and booleans stay as they are."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(5)
            self.out = nn.Linear(5, 3)
            self.register_buffer("mask", torch.tensor([True, False, True]))
            self.register_buffer("seen", torch.zeros((), dtype=torch.int32))
            self.register_buffer("nothing", torch.zeros(0, 4))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen += len(x)
            return self.out(self.norm(x)) * self.mask

    inputs, targets = classification()

    def split(site: Site) -> Split:
        if site.is_aggregator:
            return Split(test=(inputs, targets))
        return Split(train=(inputs[site.index :: 2], targets[site.index :: 2]))

    problem = Supervised(model=Net, data=split, loss=cross_entropy)
    sites = {f"w{i}": problem(Site(name=f"w{i}", index=i, num_sites=2)) for i in range(2)}
    final = federate(tmp_path, problem(Site()), sites, rounds=3, epochs=1, batch_size=0)
    size = len(inputs)
    assert final["mask"].tolist() == [True, False, True]
    assert final["norm.num_batches_tracked"].item() == 3
    assert final["seen"].dtype == torch.int32
    assert 3 * (size // 2) <= final["seen"].item() <= 3 * (size // 2 + 1)
    assert final["nothing"].shape == (0, 4)
    assert final["norm.running_mean"].abs().sum() > 0
    assert torch.isfinite(final["out.weight"]).all()
