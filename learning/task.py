"""The contract between the federation and a user's learning problem: Site, Plan, Task.

A user's task needs to import nothing from here. It is enough that the object has the three methods of `Task`.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from console import Arguments
from learning.devices import alone


def never() -> bool:
    """Training is never cancelled."""
    return False


def uncorrected(parameters: Iterable[nn.Parameter]) -> None:
    """Nothing is added to gradients."""


def ignore(fraction: float) -> None:
    """Progress is reported to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a task runs, and which part of the data is there.

    With `index` and `num_sites`, the site holds the index-th of `num_sites` disjoint parts; with neither, its
    part follows from its name alone. A task that reads data of its own may ignore all of this but the name.
    Raises ValueError when only one of the two is given, or `index` is not in 0..num_sites-1.
    """

    name: str | None = None
    """None for the aggregator, which has no site and at most a central test set."""
    partition: str = "iid"
    """`iid`, `dirichlet:ALPHA`, `shards:K` or `draws:K`; see learning.partition."""
    index: int | None = None
    num_sites: int | None = None
    seed: int = 0
    """Seed of the partition. All sites of one federation must share it for their parts to be disjoint."""
    args: Mapping[str, str] = field(default_factory=Arguments)
    """What this site's task was given, as `--task-arg name=value`; read-only. To ask for a name that is not there is
    a KeyError that says how to give it."""

    def __post_init__(self) -> None:
        if (self.index is None) != (self.num_sites is None):
            raise ValueError(f"site {self.name!r} needs both index and num_sites, or neither")
        if self.index is not None and self.num_sites is not None and not 0 <= self.index < self.num_sites:
            raise ValueError(f"site {self.name!r} has index {self.index}; expected 0..{self.num_sites - 1}")

    @property
    def is_aggregator(self) -> bool:
        return self.name is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One local training: what the aggregator asks for, and what the worker adds (seed, device, calls)."""

    round: int
    seed: int
    """The only source of randomness in the training; derived from run, round and worker."""
    device: str = "cpu"
    epochs: int = 1
    batch_size: int = 32
    """0 takes all data of the site as one batch."""
    lr: float
    momentum: float = 0.0
    mu: float = 0.0
    """FedProx: adds mu/2 * ||w - w_received||^2 to the loss."""
    max_steps: int = 0
    """Most optimizer steps over all epochs; 0 sets no limit."""
    num_rounds: int = 0
    """How many rounds the run is to have, as far as is known; it may go on for longer, or end early. 0: not known."""
    args: Mapping[str, str] = field(default_factory=lambda: Arguments(flag="--plan-arg"))
    """Options of the run's own, the same at all sites, as the aggregator was given them: `--plan-arg name=value`."""
    figures: frozenset[str] = frozenset()
    """What `train` is to return besides, since the run weighs updates by it: `num_steps`, the number of optimizer
    steps; `update_norm1`, see `update_norm1()`; `loss_before`, the received model's mean loss on the training data;
    `aggregation_weight`, a weight of the task's own above 0, of which at most the number of samples counts."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """Of all sites' samples, as the run was given them with `--statistics`: `mean`, `std`, `min`, `max`, `count` and
    quantiles (`q0.5`), float64 with a number for each feature, and `labels`; empty if it has none."""
    memory: MutableMapping[str, Any] = field(default_factory=dict)
    """What this site's task remembers: tensors, ints and floats by name, as the last training that counted left them.
    What is written here is there in the next round; `fl-worker --state` keeps it across restarts."""
    correct: Callable[[Iterable[nn.Parameter]], None] = uncorrected
    """Called with the model's parameters in each step, after `backward()` and before the optimizer's `step()`: adds
    what the run's `--correction` asks for to their gradients. A task that never calls it has no part in such a run."""
    parallel: Callable[[nn.Module], Callable[..., Any]] = alone
    """Called with the model before the first batch: what it returns is called in the model's place, and does so on all
    devices that the worker was given, each with its part of the batch. On one device it is the model itself."""
    cancelled: Callable[[], bool] = never
    """Asked before every batch; once true, the training returns at once and its result is thrown away."""
    progress: Callable[[float], None] = ignore
    """Called with the finished fraction, 0 to 1."""

    def update_norm1(self, num_steps: int) -> float:
        """The sum of the factors with which gradients are in what so many steps of SGD change, over -lr.

        It is `num_steps` for plain SGD, more with momentum, less with mu (FedNova: Wang et al. 2020, arXiv:2007.07481,
        section 3): the change by a training whose gradients are all 1.
        """
        moved = velocity = 0.0
        for _ in range(num_steps):
            velocity = self.momentum * velocity + (1.0 - self.lr * self.mu * moved)
            moved += velocity
        return moved


class Task(Protocol):
    """A learning problem at one site."""

    def model(self) -> nn.Module:
        """A new model, of the same architecture everywhere. The aggregator seeds torch and sends its own."""
        ...

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        """Trains `model`, which is in training mode, in place and returns its metrics.

        `num_samples` must be among them: it is the weight of this update in the mean.
        """
        ...

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Metrics such as `loss`, `accuracy` and `num_samples` on held-out data; `{}` when there is none.

        The model is in evaluation mode; its modes, gradients and requires_grad are afterwards what they were.

        A worker's task evaluates on the site's own held-out data, the aggregator's on central test data.
        """
        ...
