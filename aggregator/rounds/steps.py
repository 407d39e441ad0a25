"""The server's step: what the mean of a round's updates does to the global model (Reddi et al. 2021, algorithm 2).

A step is a pure pair: ``init`` gives its first state; ``apply`` takes a mean and a state, and gives the change to the
model and the next state. Both work on blocks of elements, and know neither where in the model a block lies nor how
many blocks there are. State is saved in the same commit as the model that it belongs to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.float64]
StepState = Mapping[str, Block]
"""What a step remembers of each element, by name: flat float64 arrays, all as long as the block."""


class Step(Protocol):
    """One server optimizer, with its numbers."""

    def init(self, num_elements: int) -> StepState:
        """The state of ``num_elements`` elements before the first round; its names are always the same."""

    def apply(self, mean: Block, state: StepState) -> tuple[Block, StepState]:
        """(what is added to the model, next state). The mean may be changed in place; the state may not.

        The same arguments give the same bits, on any machine and in blocks of any length.
        """


@dataclass(frozen=True, slots=True)
class FedAvg:
    """Federated averaging (McMahan et al. 2017, algorithm 1): the model moves by ``server_lr`` times the mean."""

    server_lr: float = 1.0

    def init(self, num_elements: int) -> StepState:
        return {}

    def apply(self, mean: Block, state: StepState) -> tuple[Block, StepState]:
        return np.multiply(mean, self.server_lr, out=mean), state


def state_names(step: Step) -> tuple[str, ...]:
    """What the step remembers, by name, in a fixed order."""
    return tuple(sorted(step.init(0)))
