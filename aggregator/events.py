"""The events that an aggregator, root or partial, passes to its watchers: terminal, status, metrics, log.

Watchers receive events and decide nothing.

Events come from the service's thread, in order. Only ``Committed`` is final: decisions after the last commit may be
reported a second time, after a restart.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregator.state import Aim, CommandRow, UpdateRow, Verdict
from broker.wire import Presence
from console import Transferring


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingBy:
    """Another aggregator leads the queue. Emitted by the command, before there is a service."""

    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOpened:
    """The run began, or resumes after ``last_closed_round`` (0: none was closed)."""

    run: str
    run_id: str
    queue: str
    state: Path
    num_rounds: int
    last_closed_round: int
    closed: Sequence[Mapping[str, Any]] = ()
    """The ledger's rows of the rounds that are over."""
    aim: Aim = field(default_factory=Aim)
    commands: Sequence[CommandRow] = ()
    """The last ones that were taken."""
    outvoted: Mapping[str, int] = field(default_factory=dict)
    """Worker -> how often a robust rule left its update out so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpened:
    """The round's model is out. After a restart, ``num_folded`` updates are already folded."""

    round: int
    num_folded: int
    answered: Collection[str] = ()
    """The workers whose updates these are."""
    unable: Mapping[str, str] = field(default_factory=dict)
    """Worker -> why it has no update for this round, of those that said so before the restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundMoved:
    """How far the open round is; emitted when one of these fields changes."""

    round: int
    num_folded: int
    target: int
    """Updates wanted: the quorum for the workers now present."""
    num_present: int
    num_chosen: int | None = None
    """How many of these take part in the round; None: all."""
    num_unable: int = 0
    """Workers that said that they have no update; the round does not wait for them."""
    num_wanted: int = 0
    """How many workers the run wants to be there, whoever is; 0 while it is paused."""
    deadline_at: float | None
    """On the aggregator's clock (``time.monotonic``)."""
    is_extended: bool
    is_paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """A sign of life from a worker."""

    presence: Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateDecided:
    """What becomes of an update, unless it is decided anew; folding it took ``fold_s`` seconds."""

    row: UpdateRow
    fold_s: float | None = None
    shard: int | None = None
    """The shard in whose partial sum it arrived; None if it did not."""
    is_answer: bool = False
    """It came without tensors: its worker has no update, or was only asked to measure the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateWithdrawn:
    """A folded update of the open round does not count any more, since its worker does not. It is final."""

    round: int
    """The round whose model it was trained from."""
    worker: str
    num_samples: int | None
    """None: it does not say, as a masked one."""
    reason: str
    """In words that follow the worker's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatesOutvoted:
    """A robust rule left updates of a round out; it is final."""

    round: int
    """The round that was closed."""
    scores: Mapping[str, float]
    """Worker -> what its update's score was, of those left out."""
    num_updates: int
    """Of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumDecided:
    """What becomes of a partial sum; emitted after the decisions on each update in it."""

    shard: int
    round: int
    """The round whose model its updates were trained from."""
    num_updates: int
    num_samples: int | None
    """None: its updates do not say."""
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """These rows are in the ledger; the commit, including the sum or the model, took ``seconds``."""

    rows: tuple[UpdateRow, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandTaken:
    """Somebody asked for something (``fl-run``): what, and what came of it, as it is in the ledger."""

    row: CommandRow
    num_rounds: int
    """How many rounds the run has from then on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundClosed:
    """A round is over: its ledger row, as ``Ledger.round`` gives it."""

    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SitesMeasured:
    """What workers measured of the model after an earlier round is in that round's ledger row, as ``eval.*``."""

    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastEvaluationOpened:
    """All rounds are over, and the sites are asked to measure the model after this one."""

    round: int
    num_wanted: int
    """As in ``RoundMoved``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The final model is out."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped:
    """The aggregator was stopped in this round; what was folded is committed."""

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
    """A newer model is out; updates for its round are summed from now on."""

    run_id: str
    round: int
    num_rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSummed:
    """An update for the open round is in the sum that goes out next; adding it took ``fold_s`` seconds."""

    round: int
    worker: str
    num_samples: int | None
    """None: it does not say, as a masked one."""
    fold_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePassedOn:
    """An update was passed on to the root unchanged, for the root to judge."""

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SumSent:
    """The root's queue holds a sum of ``num_updates`` updates durably; sending it took ``seconds``."""

    round: int
    num_updates: int
    num_samples: int | None
    """None: its updates do not say."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SumDropped:
    """A sum was discarded before it was sent; its updates are delivered again."""

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
    | UpdateWithdrawn
    | UpdatesOutvoted
    | SumDecided
    | Committed
    | CommandTaken
    | RoundClosed
    | SitesMeasured
    | LastEvaluationOpened
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
