"""``--server-optimizer`` as a value: one step of the shelf, by its name, with its parameters."""

from dataclasses import dataclass, field
from typing import Any

from aggregator.algorithms.fedavg import FedAvg
from aggregator.algorithms.fedavgm import FedAvgM
from aggregator.algorithms.step import Step
from console import parse_named, text_of_named

STEPS: dict[str, type[Any]] = {"fedavg": FedAvg, "fedavgm": FedAvgM}


@dataclass(frozen=True, slots=True)
class ServerOptimizer:
    """A step, and the text that it is chosen by."""

    step: Step = field(default_factory=FedAvg)

    @classmethod
    def parse(cls, text: str) -> "ServerOptimizer":
        """From ``NAME`` or ``NAME:key=value,…``. Anything else is a ValueError."""
        return cls(parse_named(text, STEPS))

    def __str__(self) -> str:
        return text_of_named(self.step, STEPS)
