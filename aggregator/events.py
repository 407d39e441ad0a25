"""What an aggregator tells those who look on: terminal, status, metrics. They learn of it, and decide nothing.

Told from the service's thread, in order. Only ``Committed`` is for good: what was decided after the last commit may be
told a second time, after a restart or when a broken update made the sum go back.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregator.state import Aim, UpdateRow
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


Event = (
    StandingBy
    | RunOpened
    | RoundOpened
    | RoundMoved
    | WorkerSeen
    | Transferring
    | UpdateDecided
    | Committed
    | RoundClosed
    | RunEnded
    | RunStopped
)
Watcher = Callable[[Event], None]


def unwatched(event: Event) -> None:
    """The watcher of an aggregator that nobody looks at."""
