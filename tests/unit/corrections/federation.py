"""A federation of real workers and a real aggregator over the embedded broker, in which a test says who answers when.

The problem is that of the golden traces: site i has f_i(x) = h_i / 2 * (x - e_i)^2, in float64.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import SGD
from unit.aggregator.embedded_run import EmbeddedRun

from broker.memory import MemoryBroker, MemoryTransport
from broker.wire.topology import Topology
from learning.task import Plan
from worker.config import WorkerConfig
from worker.service import Worker
from worker.state.carried import Carried, OnDisk

CURVATURES, CENTRES = (1.0, 2.0, 3.0, 4.0), (1.0, -1.0, 2.0, 0.5)
"""Of the sites of C1; their common minimum is at 0.7."""
NAMES = tuple(f"site-{index}" for index in range(4))
PAIRS = list(combinations(range(4), 2))
"""Who takes part in C1: the pairs in turn."""


class Killed(BaseException):
    """kill -9, as far as a test in one process can have it."""


@dataclass
class Line:
    """What all workers send goes this way."""

    kills: bool = False
    """Whether whoever sends is killed first."""
    last: tuple[bytes, str] | None = None
    """The last message and its sender."""


class Watched(MemoryTransport):
    def __init__(self, broker: MemoryBroker, line: Line) -> None:
        super().__init__(broker)
        self._line = line

    def send(self, body: bytes, *, worker: str, num_shards: int = 0) -> None:
        if self._line.kills:
            raise Killed
        self._line.last = (body, worker)
        super().send(body, worker=worker, num_shards=num_shards)


class OneParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(1, dtype=torch.float64))


@dataclass
class Parabola:
    """A task with one parameter. ``steps`` is the number of local steps; None: as many as the plan has epochs."""

    h: float
    e: float
    steps: int | None = None
    corrects: bool = True
    exact: bool = False
    """Whether it goes to the minimum of what it is asked to minimize, in one step of Newton's."""

    def model(self) -> nn.Module:
        return OneParameter()

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        assert isinstance(model, OneParameter)
        steps = self.steps or plan.epochs
        optimizer = SGD(model.parameters(), lr=plan.lr, momentum=plan.momentum)
        for _ in range(1 if self.exact else steps):
            optimizer.zero_grad()
            (self.h / 2 * (model.x - self.e).square()).sum().backward()
            if self.corrects:
                plan.correct(model.parameters())
            if self.exact:
                with torch.no_grad():  # the sum of both curvatures is told by lr
                    model.x -= model.x.grad / (self.h + 1 / plan.lr)
                continue
            optimizer.step()
        figures = {"update_norm1": plan.update_norm1(steps)} if "update_norm1" in plan.figures else {}
        return {"num_samples": 1.0} | figures

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, OneParameter)
        if self.h == 0:  # the aggregator's
            return {}
        return {"loss": (self.h / 2 * (model.x - self.e).square()).item(), "num_samples": 1.0}


@dataclass
class Federation:
    """``rounds_of`` has chosen workers answer; whoever is not chosen sees nothing of a round."""

    run: EmbeddedRun
    folder: Path
    tasks: dict[str, Parabola]
    workers: dict[str, Worker] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    """Where a worker keeps what it carries, if not where it did at first."""
    line: Line = field(default_factory=Line)

    @classmethod
    def make(
        cls,
        folder: Path,
        tasks: Sequence[Parabola] | None = None,
        *,
        of: Parabola | None = None,
        quorum: int = 2,
        **changes: object,
    ) -> "Federation":
        """``of`` is the aggregator's task."""
        given = [Parabola(h, e) for h, e in zip(CURVATURES, CENTRES, strict=True)] if tasks is None else tasks
        fields = {"rounds": 1000, "lr": 0.05, "momentum": 0.0, "epochs": 5}
        run = EmbeddedRun.make(folder / "state", of or Parabola(0, 0), **(fields | {"quorum": str(quorum)} | changes))
        federation = cls(run.start(), folder, {f"site-{index}": task for index, task in enumerate(given)})
        for name in federation.tasks:
            federation.restart(name)
        return federation

    def lose(self, name: str) -> None:
        """Starts this worker again without what it carried."""
        self.places[name] = "elsewhere"
        self.restart(name)

    def restart(self, name: str) -> None:
        """Starts this worker again from what it has on its disk."""
        if name in self.workers:
            self.workers[name]._transport.close()
        config = WorkerConfig(name=name, topology=Topology(self.run.settings.queue), inline_cap=2**23)
        carried = OnDisk(self.folder / self.places.get(name, "sites"), name)
        transport = Watched(self.run.broker, self.line)
        self.workers[name] = Worker(config, self.tasks[name], transport, carried=carried)
        self.workers[name].start()

    def crash(self) -> None:
        """Kills the aggregator, and starts it again."""
        self.run = self.run.crash().start()

    def kill_while_sending(self, index: int) -> None:
        """Has this worker train, keep what it carries, and be killed before its update is out; then starts it again."""
        name = f"site-{index}"
        self.line.kills = True
        with contextlib.suppress(Killed):
            self.workers[name].step()
        self.line.kills = False
        self.restart(name)

    def send_again(self) -> None:
        """The last update comes a second time."""
        if self.line.last is not None:
            body, worker = self.line.last
            self.run.site.send(body, worker=worker)

    def answer(self, *indices: int) -> None:
        """These workers train for the open round and send; the aggregator takes what they sent."""
        for index in indices:
            self.workers[f"site-{index}"].step()
        self.run.settle()

    def rounds_of(self, chosen: Iterable[Sequence[int]]) -> list[float]:
        """The model after each round, in which those of these indices answer."""
        found = []
        for indices in chosen:
            self.answer(*indices)
            found.append(self.x)
        return found

    @property
    def x(self) -> float:
        return float(self.run.model["x"])

    @property
    def control(self) -> float:
        """SCAFFOLD's c, as the newest model has it."""
        return float(self.run.model["control/x"])

    def carried(self, name: str) -> Carried:
        """What a worker goes on from: what it carried out of its last update that counted."""
        counted = self.run.head.last_counted(name)
        found = None if counted is None else self.workers[name]._carried.after(self.run.head.run_id, counted)
        return Carried() if found is None else found

    def sum_of_kept(self) -> Fraction:
        """The sum of what all workers carry for the correction, of this control epoch."""
        total = Fraction(0)
        for name in self.tasks:
            carried = self.carried(name)
            of_epoch = carried.sets.get("epoch", {}).get("control", torch.tensor(-1))
            if int(of_epoch) == self.run.head.control_epoch and carried.sets.get("correction"):
                total += as_fraction(carried.sets["correction"]["x"])
        return total

    def server_sum(self, name: str = "control_sum") -> Fraction:
        """What the aggregator keeps for the correction."""
        start = self.run.folder / "models" / f"round-{self.run.round - 1:05d}"
        names = (name, name.replace("sum", "rest"))
        return sum((Fraction(float(load_file(f"{start}.{each}.safetensors")[each])) for each in names), Fraction(0))


def as_fraction(kept: torch.Tensor) -> Fraction:
    """A kept number as it is: what is nearest in float64, and what that lacks."""
    return sum(map(Fraction, kept.flatten().tolist()), Fraction(0))


def pairs(num_rounds: int) -> list[tuple[int, ...]]:
    """Who answers in C1."""
    return [PAIRS[number % 6] for number in range(num_rounds)]
