"""A federation in this process with a task that a test gives as an object: each worker has a module of its own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.memory import MemoryBroker, MemoryTransport
from broker.wire.codec import decode
from broker.wire.messages import ModelHead
from broker.wire.topology import Topology
from learning import Plan, Task
from simulation.embedded import run_embedded
from simulation.slot import LocalSlot

Change = Callable[[nn.Module, str], object]
"""Trains a model at the site with this name."""


def nothing(model: nn.Module, site: str) -> None:
    """Training changes nothing."""


class Given:
    """A task at one site: a model, what training does to it, and perhaps what it measures."""

    def __init__(
        self,
        site: str,
        make: Callable[[], nn.Module],
        train: Change = nothing,
        evaluate: Callable[[nn.Module], Any] = lambda model: {},
    ) -> None:
        self.site, self.make, self.change, self.measure = site, make, train, evaluate

    def model(self) -> nn.Module:
        return self.make()

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        with torch.no_grad():
            self.change(model, self.site)
        return {"num_samples": 1}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        measured: Mapping[str, float] = self.measure(model)
        return measured


class SmallFederation:
    """``run`` it to its end, then look at what it left."""

    def __init__(
        self, folder: Path, task: Callable[[str], Task], *, sites: Sequence[str] = ("a", "b"), **settings: Any
    ) -> None:
        self.folder, self.task, self.sites = folder, task, sites
        fields = {"task": "mine", "rounds": 2, "quorum": str(len(sites)), "state": folder, "keep_every": 1}
        self.settings = AggregatorSettings.model_validate(fields | settings)
        self.broker = MemoryBroker()

    def run(self) -> "SmallFederation":
        aggregator = Aggregator(self.settings.config, self.task(""), MemoryTransport(self.broker))
        slots = [
            LocalSlot({site: self.task(site)}, topology=Topology(self.settings.queue), inline_cap=2**20)
            for site in self.sites
        ]
        try:
            run_embedded(aggregator, self.broker, slots)
        finally:
            aggregator.close()
        assert aggregator.is_finished
        return self

    @property
    def head(self) -> ModelHead:
        return decode(self.broker.heads[-1], ModelHead)[0]

    def model(self, after: int) -> dict[str, Tensor]:
        """The model after this round."""
        loaded: dict[str, Tensor] = load_file(self.folder / "models" / f"round-{after:05d}.safetensors")
        return loaded
