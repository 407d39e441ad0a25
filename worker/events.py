"""The events that a worker emits to its watchers: terminal and metrics. Watchers decide nothing.

Emitted from the service's thread, in order. Training progress is in ``Worker.presence``, which any thread may read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.wire import ModelHead, Presence
from console import Transferring


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """What the worker does from now on."""

    presence: Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReceived:
    """A model to train from, of ``num_bytes``. Reading it, with its blob if it has one, took ``seconds``."""

    head: ModelHead
    num_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrained:
    """The received model was measured (``eval_metrics``), and trained for ``train_s`` seconds (``metrics``)."""

    round: int
    num_samples: int
    train_s: float
    metrics: Mapping[str, float]
    eval_metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSent:
    """The broker has the update, of ``num_bytes`` (before zstd if in a blob). Sending took ``seconds``."""

    round: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLeft:
    """There is no update for this round: it was over before, or training diverged."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotChosen:
    """Others were chosen to take part in the round of this model, which is not read here."""

    head: ModelHead


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The aggregator says that the run is over."""

    run_id: str
    num_rounds: int


Event = StateChanged | Transferring | ModelReceived | RoundTrained | UpdateSent | RoundLeft | NotChosen | RunFinished
Watcher = Callable[[Event], None]


def unwatched(event: Event) -> None:
    """The watcher of a worker that nobody watches."""
