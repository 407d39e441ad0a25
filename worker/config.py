"""What a worker is told before it starts."""

from dataclasses import dataclass

from broker.wire import PRESENCE_EVERY_S, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Which worker this is, where it meets its aggregator, and what it trains on."""

    name: str
    topology: Topology
    inline_cap: int
    """Bytes up to which an update travels in its message, and not as a blob, in runs that say nothing of it."""
    run: str | None = None
    """The run that it takes part in; None: any."""
    device: str = "cpu"
    presence_every_s: float = PRESENCE_EVERY_S
    """Whoever has the worker ``announce`` does so this often at least."""
