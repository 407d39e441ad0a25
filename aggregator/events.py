"""What an aggregator, the root or a partial one, tells its watchers: terminal, status, metrics, log.

They learn of it, and decide nothing.

Told from the service's thread, in order. Only ``Committed`` is for good: what was decided after the last commit may be
told a second time, after a restart or when a broken update made the sum go back.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregator.state import Aim, UpdateRow, Verdict
from broker.wire import Presence
from console import Transferring


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingBy:
    """Another aggregator leads the queue; told by the command, before there is a service."""

    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOpened:
    """The run began, or goes on after ``last_closed_round`` (0: none was closed)."""

    run: str
    run_id: str
    queue: str
    state: Path
    num_rounds: int
    last_closed_round: int
    closed: Sequence[Mapping[str, Any]] = ()
    """The ledger's rows of the rounds that are over."""
    aim: Aim = field(default_factory=Aim)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpened:
    """Its model is out. ``num_folded`` updates were in already, if the aggregator was started again."""

    round: int
    num_folded: int
    answered: Collection[str] = ()
    """Whose updates these are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundMoved:
    """How far the open round is: told when one of these changes."""

    round: int
    num_folded: int
    target: int
    """Updates wanted: the quorum, with so many workers present."""
    num_present: int
    deadline_at: float | None
    """On the aggregator's clock (``time.monotonic``)."""
    is_extended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """A sign of life."""

    presence: Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateDecided:
    """What becomes of an update, unless it is decided anew; ``fold_s`` is how long it took to fold it, in seconds."""

    row: UpdateRow
    fold_s: float | None = None
    shard: int | None = None
    """The shard in whose partial sum it came, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumDecided:
    """What becomes of a partial sum, after what becomes of each update in it."""

    shard: int
    round: int
    """The round whose model its updates were trained from."""
    num_updates: int
    num_samples: int
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """These rows are in the ledger; the commit, with the sum or the model, took ``seconds``."""

    rows: tuple[UpdateRow, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundClosed:
    """The ledger's row of a round that is over, as ``Ledger.round`` gives it."""

    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The final model is out."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped:
    """The aggregator was told to stop in this round; what was folded is committed."""

    round: int


# -- of a partial aggregator ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLed:
    """The partial aggregator leads its shard from now on."""

    shard: int
    num_shards: int
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRoundOpened:
    """A newer model is out, and updates for its round are summed up from now on."""

    run_id: str
    round: int
    num_rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSummed:
    """An update for the open round is in the sum that goes out next; it took ``fold_s`` to add it."""

    round: int
    worker: str
    num_samples: int
    fold_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePassedOn:
    """An update went to the root as it came, for the root to judge it."""

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SumSent:
    """The root's queue has a sum of so many updates for good; sending it took ``seconds``."""

    round: int
    num_updates: int
    num_samples: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SumDropped:
    """A sum was given up before it was sent; its updates come again."""

    num_updates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFinished:
    """The root says that the run is over."""

    run_id: str
    num_rounds: int


Event = (
    StandingBy
    | RunOpened
    | RoundOpened
    | RoundMoved
    | WorkerSeen
    | Transferring
    | UpdateDecided
    | SumDecided
    | Committed
    | RoundClosed
    | RunEnded
    | RunStopped
)
PartialEvent = (
    StandingBy
    | Transferring
    | ShardLed
    | ShardRoundOpened
    | UpdateSummed
    | UpdatePassedOn
    | SumSent
    | SumDropped
    | ShardFinished
)
Watcher = Callable[[Event], None]
PartialWatcher = Callable[[PartialEvent], None]


def unwatched(event: Event | PartialEvent) -> None:
    """The watcher of an aggregator that nobody watches."""
