"""A correction at the worker: what is added to the gradients of one training, and what is carried out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from broker.states import State

CORRECTION, PERSONAL, EPOCH = "correction", "personal", "epoch"
"""The names of its sets in what is carried: tensors that belong to the aggregator's state, a model of the site's own,
and the control epoch that the first are of."""


@dataclass(frozen=True, slots=True)
class Terms:
    """gradient <- gradient + linear + pull * (parameter - towards), of each tensor that they have."""

    linear: State = field(default_factory=dict)
    """float64."""
    pull: float = 0.0
    towards: State = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return self.linear.keys() | (self.towards.keys() if self.pull else set())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What the aggregator has of one training."""

    delta: State
    """As it decodes it, float64, of the tensors that are trained."""
    lr: float
    figures: Mapping[str, float]


class Correct(Protocol):
    """One correction, with its parameters. Pure."""

    def terms(self, received: State, control: State, kept: State) -> Terms:
        """What is added to gradients; ``kept`` is what was carried of it, nothing at first.

        ``received`` are the trained tensors of the model, ``control`` what came with it.
        """

    def after(self, sent: Sent, control: State, kept: State) -> State:
        """What is carried on."""
