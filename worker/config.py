"""What a worker is given when it starts."""

from dataclasses import dataclass, field
from pathlib import Path

from broker.wire import PRESENCE_EVERY_S, Topology
from identities import Membership
from worker.policy import WorkerPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Which worker this is, where it meets its aggregator, and what it trains on."""

    name: str
    topology: Topology
    inline_cap: int
    """Bytes up to which an update travels in its message, and not as a blob, in runs that do not set this."""
    run: str | None = None
    """The run to take part in; None: any."""
    stays: bool = False
    """Whether it waits for more once a run is finished, and does not leave."""
    grace_s: float = 0.0
    """Seconds that it waits for more if the run is finished when it starts: its aggregator may be about to go on."""
    save_model: Path | None = None
    """Where the final model goes as it stands at this site, when the run is finished."""
    devices: tuple[str, ...] = ("cpu",)
    """Where it trains, as PyTorch names them; the first has the model, and others call it with parts of a batch."""
    presence_every_s: float = PRESENCE_EVERY_S
    """Most seconds between two calls of ``announce``, which the caller sees to, unless the aggregator asks for more."""
    membership: Membership = field(default_factory=Membership)
    """Who it is to the others, and whose models it takes."""
    policy: WorkerPolicy = field(default_factory=WorkerPolicy)
    """What it asks of a run before it answers."""
