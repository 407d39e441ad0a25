"""The server's step: what the mean of a round's updates does to the global model (Reddi et al. 2021, algorithm 2).

    model <- model + server_lr * direction        direction, state <- step(mean, state)

A step is pure. It works on blocks of elements, and knows neither where in the model a block lies nor how many blocks
there are. What it remembers of each element is its state; what it remembers of the run are its scalars. Both are saved
in the same commit as the model that they belong to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from aggregator.state import FoldedUpdate
from broker.states import OnGrid
from broker.wire import FigureName, LocalTraining

Block = NDArray[np.float64]
StepState = Mapping[str, Block]
"""What a step remembers of each element, by name: flat float64 arrays, all as long as the block."""
Scalars = Mapping[str, float]
"""What a step remembers of the run, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFacts:
    """What a step may know of the round that is closed, besides its mean."""

    folded: Sequence[FoldedUpdate]
    """The updates in the mean, at least one; sorted by base round and worker."""
    divisor: float
    """The weighted sum of the updates divided by this is the mean."""
    mean_norm: Callable[[], float]
    """The Euclidean norm of the mean, over all elements that are stepped. It takes a pass over the sum."""
    local: LocalTraining
    """What the workers were asked to do."""
    population: int = 0
    """The workers that ever counted since what the correction keeps began at zero, those of this round among them."""
    begins_anew: bool = False
    """Whether what the correction keeps begins at zero after this round, since a worker of it had lost its part."""


class Step(Protocol):
    """One server optimizer, with its parameters. It moves trained floating-point parameters and nothing else.

    One that goes by figures that the updates give of themselves has their names as ``needs``.

    One that keeps sums without rounding has ``add(total, state, scalars)``, which is called before ``apply``: ``total``
    is the sum of the block's weighted updates on the grid, and what it returns is the state that ``apply`` gets.
    """

    @property
    def server_lr(self) -> float:
        """The server's learning rate where ``--server-lr`` is not given."""

    def init(self, num_elements: int) -> StepState:
        """The state of ``num_elements`` elements before the first round; its names are always the same."""

    def scalars(self, before: Scalars, facts: RoundFacts) -> Scalars:
        """The scalars of this round; ``before`` are those of the last round that moved the model, at first empty."""

    def apply(self, mean: Block, state: StepState, scalars: Scalars) -> tuple[Block, StepState]:
        """(direction, next state), with the scalars of this round. The mean may be changed in place; the state may not.

        The same arguments give the same bits, on any machine and in blocks of any length.
        """


def added(step: Step, total: Callable[[], OnGrid], state: StepState, scalars: Scalars) -> StepState:
    """The state with a round's sum added, where the step keeps one. OverflowError if it leaves the grid's range."""
    add = getattr(step, "add", None)
    return state if add is None else cast(StepState, add(total(), state, scalars))


def figures_of(step: Step) -> tuple[FigureName, ...]:
    """The figures that it has to find in every update."""
    return tuple(getattr(step, "needs", ()))


def state_names(step: Step) -> tuple[str, ...]:
    """What the step remembers of each element, by name, in a fixed order."""
    return tuple(sorted(step.init(0)))
