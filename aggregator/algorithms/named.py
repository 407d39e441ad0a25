"""``--server-optimizer`` as a value: one step of the shelf, by its name, with its parameters; or a user's own."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from aggregator.algorithms.diloco import DiLoCo
from aggregator.algorithms.fedadagrad import FedAdagrad
from aggregator.algorithms.fedadam import FedAdam
from aggregator.algorithms.fedams import FedAMS
from aggregator.algorithms.fedavg import FedAvg
from aggregator.algorithms.fedavgm import FedAvgM
from aggregator.algorithms.fedexp import FedExP
from aggregator.algorithms.fedyogi import FedYogi
from aggregator.algorithms.own import Own, OwnStep
from aggregator.algorithms.step import Step
from console import parse_named, text_of_named

STEPS: dict[str, type[Any]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "diloco": DiLoCo,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fedams": FedAMS,
    "fedexp": FedExP,
}


@dataclass(frozen=True)
class ServerOptimizer:
    """A step, and the text that it is chosen by. A user's file is read once, when it is first asked for."""

    chosen: Step | Own = field(default_factory=FedAvg)

    @classmethod
    def parse(cls, text: str) -> "ServerOptimizer":
        """From ``NAME``, ``NAME:key=value,…`` or ``path/file.py:object``. Anything else is a ValueError."""
        own = Own.parse(text)
        if own is not None:
            return cls(own)
        try:
            return cls(parse_named(text, STEPS))
        except ValueError as error:
            raise ValueError(f"{error}; one of your own is given as path/file.py:object") from error

    def __str__(self) -> str:
        return str(self.chosen) if isinstance(self.chosen, Own) else text_of_named(self.chosen, STEPS)

    @cached_property
    def step(self) -> Step:
        """A TaskError if it is a user's own, and cannot be had from its file."""
        return OwnStep.load(self.chosen) if isinstance(self.chosen, Own) else self.chosen

    @cached_property
    def recorded(self) -> str:
        """What the ledger has of it: a run goes on only with the same. A TaskError if its file cannot be read."""
        return self.chosen.recorded if isinstance(self.chosen, Own) else str(self)
