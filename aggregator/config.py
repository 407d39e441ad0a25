"""What an aggregator is to do, as one value; ``fl-aggregator`` makes it from its settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregator.algorithms import FedAvg, Step
from aggregator.bodies import BodyLimits
from aggregator.noising import Noising
from aggregator.plans import Scheduled
from aggregator.presence import Sample
from aggregator.rounds import ExactSum, NewAccumulator, RoundPolicy
from aggregator.senders import Admission, Everybody
from aggregator.state import Ending
from aggregator.weighing import Weigher, WeightLimits
from broker import Correction
from broker.wire import Compression, Downlink, LocalTraining, Masking, Specs, Topology
from console import SettingsError
from identities import Membership

BY_ROUND = (
    *LocalTraining.model_fields,
    "server_lr",
    "quorum",
    "deadline_s",
    "grace_s",
    "min_updates",
    "on_short",
    "max_staleness",
    "weighting",
    "clip_norm",
    "max_samples",
    "max_weight",
    "sample",
)
"""Names of the settings that may differ from round to round."""


def _fixed(changes: Mapping[str, str]) -> "AggregatorConfig":
    raise SettingsError("the settings of this run cannot change while it goes on")


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorConfig:
    """One run, for its ``Aggregator``. Sizes in bytes, times in seconds."""

    run: str
    task: str
    """The task's reference, as the ledger records it."""
    seed: int
    state: Path
    init: Path | None = None
    """The file whose tensors a new run begins with; None: it begins with those of the task's own model."""
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What a new run tells its tasks of all sites' samples."""
    topology: Topology
    policy: RoundPolicy
    ending: Ending
    weigher: Weigher = field(default_factory=Weigher)
    """How updates are weighed, as yet without the limits of a round."""
    weight_limits: WeightLimits = field(default_factory=WeightLimits)
    local: LocalTraining
    schedules: Mapping[str, Scheduled] = field(default_factory=dict)
    """The settings that follow a schedule, by name; what is here of them otherwise is without it."""
    compression: Compression
    downlink: Downlink = "none"
    """How models travel to the workers."""
    shared: tuple[str, ...]
    """Name patterns of the tensors that travel."""
    sample: Sample | None = None
    """How many of the workers take part in a round; None: everybody."""
    everybody: tuple[str, ...] | None = None
    """The names of all workers, where they are known and always there; None: signs of life tell who is there."""
    robust: str = "none"
    """The rule that its accumulator goes by, as the ledger records it."""
    step: Step = field(default_factory=FedAvg)
    """What the mean does to the model."""
    optimizer: str = "fedavg"
    """The step, as ``--server-optimizer`` has it."""
    server_lr: float = 1.0
    correction: Correction = field(default_factory=Correction)
    """What workers do against drift; the step and the weights go with it."""
    noising: Noising | None = None
    """How the run's models are noised; None: they are not."""
    new_accumulator: NewAccumulator
    masking: Masking | None = None
    """How workers mask their updates; None: they do not."""
    keeper_wait_s: float | None = None
    """How long a round waits for its masks; None: for ever."""
    keep_every: int
    commit_every_s: float
    inline_cap: int
    part_bytes: int
    membership: Membership = field(default_factory=Membership)
    """Who it is to the others, and whose messages it takes."""
    admission: Admission = field(default_factory=Everybody)
    """Whose updates and signs of life count."""
    can_withdraw: bool = True
    """Whether the update of a worker that may not count any more can be taken out of the open round."""
    requires_same_base: bool = False
    """Whether updates trained with other frozen parameters than those here are refused, and not only told of."""
    takes_over: bool = False
    """Whether, without a state of its own, it goes on from the model on the stream."""
    resets_step: bool = False
    """Whether another step than the run's goes on with it, and begins to remember then."""
    trusts_state: bool = False
    """Whether it goes on from its state directory even if the stream has seen later starts of the run."""
    body_limits: BodyLimits = field(default_factory=BodyLimits)
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """All settings, as ledger and summary record them."""
    with_settings: Callable[[Mapping[str, str]], "AggregatorConfig"] = _fixed
    """The same with other values of some settings, as people type them. A SettingsError if they are wrong."""

    @property
    def num_wanted(self) -> int:
        """How many workers the run wants to be there, whoever is."""
        return self.policy.wanted(None if self.sample is None else self.sample.num_asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialConfig:
    """One shard of a run, for its ``PartialAggregator``."""

    run: str
    root: Topology
    """The queues as the root sees them."""
    shard: int
    num_shards: int
    flush_s: float
    """Seconds without an update after which the partial aggregator sends what it has."""
    new_sum: Callable[[Specs], ExactSum]
    inline_cap: int
    part_bytes: int
    membership: Membership = field(default_factory=Membership)
    """As the root's."""
    admission: Admission = field(default_factory=Everybody)
    """Whose updates it sums up; it passes on those of others, for the root to refuse."""
    body_limits: BodyLimits = field(default_factory=BodyLimits)
