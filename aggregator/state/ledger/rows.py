"""What the ledger records, as values: updates and their verdicts, rounds and how they ended, commands."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from learning import Measured


class Verdict(StrEnum):
    """What became of an update."""

    FOLDED = "folded"
    LATE = "late"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    ABANDONED = "abandoned"
    """It was folded into a round that was then abandoned."""
    UNDONE = "undone"
    """It was folded into a round that had to be done again because one of its files was damaged."""
    OUTVOTED = "outvoted"
    """It was folded, and a robust rule left it out as a whole when the round closed."""
    WITHDRAWN = "withdrawn"
    """It was folded, and taken out again before the round closed, since its worker may not count any more."""
    DIVERGED = "diverged"
    """Its worker answered without an update: training ended in NaN or infinity, or its site sits out."""
    MEASURED = "measured"
    """Its worker only measured a model, as it was asked to."""
    UNSELECTED = "unselected"
    """Its worker was not chosen to take part in its round (``--sample``)."""


class ClosedBy(StrEnum):
    """Why a round ended."""

    QUORUM = "quorum"
    DEADLINE = "deadline"
    SHORT = "short"
    """At the deadline, with fewer updates than the floor (``on_short: accept``)."""
    COMMAND = "command"
    """Somebody asked for the end of the run at once (``fl-run finish --now``)."""
    EVALUATED = "evaluated"
    """No round was trained: the row has what the workers measured of the model that the run began with."""
    ABANDONED = "abandoned"
    """At the deadline, with fewer updates than the floor; they are dropped (``on_short: abandon``). Or their mean took
    the model out of the range of its dtype. Or no worker had an update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRow:
    """One update as the ledger records it. Times in seconds; ``received_at`` is Unix time.

    ``num_bytes`` is what came over the wire, compressed: the message with its header, and the parts of its blob that
    were read (none if the update is late or a duplicate).
    """

    received_at: float
    round: int
    verdict: Verdict
    reason: str | None = None
    worker: str | None = None
    instance: str | None = None
    base_round: int | None = None
    staleness: int | None = None
    num_samples: int | None = None
    """None also where updates do not say, as masked ones; the same of ``train_s``."""
    weight: float | None = None
    num_bytes: int | None = None
    train_s: float | None = None
    queue_s: float | None = None
    train_metrics: Mapping[str, float] = field(default_factory=dict)
    eval_metrics: Mapping[str, float] = field(default_factory=dict)
    norm: float | None = None
    """Euclidean, of the delta of the trained tensors; see rounds/directions.py."""
    base_weight: float | None = None
    """Its part of the divisor of the mean, of one that is folded."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What it said of itself for its weight, by the names of ``broker.wire.FigureName``."""
    is_fresh: bool = False
    """Its worker had lost what it carried."""
    num_messages: int = 1
    """How many messages this row stands for: more than one if they were dropped unread."""

    @property
    def untold(self) -> "UpdateRow":
        """The same without what its site trained on, and how long: its header says 1 and 0 to say nothing."""
        return replace(self, num_samples=None, train_s=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulated:
    """The open round's sum as it was committed."""

    file: str
    sha256: str
    bound: float
    num_folded: int
    num_samples: int
    weighting: str | None = None
    """How its updates were weighed; None: an earlier version did not record it."""
    clip_norm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBody:
    """Where the body of a folded update is kept until its round closes."""

    base_round: int
    worker: str
    file: str
    blake3: str
    keys: tuple[bytes, ...] = ()
    """The ids of the keys by which its worker was known; none where senders are believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSeeds:
    """What keepers need of a masked update that is folded in the open round."""

    base_round: int
    worker: str
    masked_sha256: str
    seeds: tuple[bytes, ...]
    """For each keeper, the message with its sealed seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A round whose set of updates is decided, before its model is made: none is added, and none taken out."""

    round: int
    by: ClosedBy
    set_sha256: str
    """``digest_of_set`` of its updates if they are masked; otherwise the digest of their sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a model with noise costs of the run's privacy budget."""

    sum_sha256: str
    """Of the sum, or the set, that its noise is for."""
    noise: float
    """The noise multiplier."""
    clip: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedUpdate:
    """An update that counts in the open round."""

    base_round: int
    worker: str
    staleness: int
    num_samples: int
    """1 of one that does not say."""
    weight: float
    """It was added with this."""
    base_weight: float
    """Its part of the divisor of the mean."""
    norm: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict, hash=False)
    is_fresh: bool = False
    """Its worker had lost what it carried."""
    kept: KeptBody | None = None
    """None: it cannot be taken out again, since it came in a partial sum or before bodies were kept."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The ids of the keys by which its worker was known, as far as they were kept."""
        return self.kept.keys if self.kept else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What a robust rule made of an update, beside all others of its round."""

    score: float
    """What it means, the rule says."""
    is_outvoted: bool = False
    """Whether nothing of it is in the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """How a round ended."""

    closed_by: ClosedBy
    closed_at: float
    seconds: float
    num_samples: int | None
    """How many samples count; None: its updates do not say, alone or together."""
    num_chosen: int | None = None
    """How many of the workers present took part; None: all."""
    reason: str | None = None
    """Why its updates are dropped, if that is not said by ``closed_by`` alone."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those that may differ from round to round, as this one ran with them."""
    measured: Measured
    """The new model's metrics on central test data."""
    model_sha256: str
    sent_sha256: str | None = None
    """The digest of what is sent with the model's head; None: it is the model and no more."""
    companions: Mapping[str, str] = field(default_factory=dict)
    """Digests of the model's companions, by name."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """What the server's step remembers of the run."""
    cosines: Mapping[tuple[int, str], float] = field(default_factory=dict)
    """(base round, worker) -> cosine of the angle between its update and the mean of all, as far as it is known."""
    votes: Mapping[tuple[int, str], Vote] = field(default_factory=dict)
    """(base round, worker) -> what a robust rule made of its update, if it has a score."""
    site_means: Mapping[str, float] | None = None
    """What the sum of masked updates says of the workers' metrics; None: each update says its own."""
    privacy: Mapping[str, Any] = field(default_factory=dict)
    """Who could see what, and what it cost: as it is shown beside the round's figures."""
    next_clip: float | None = None
    """What updates are clipped to from the next round on; None: as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRow:
    """A command and what came of it. ``received_at`` is Unix time."""

    id: str
    received_at: float
    round: int
    """The round that was open."""
    sender: str | None
    """Who signed it; None where senders are believed."""
    text: str
    is_accepted: bool
    result: str
    """What happens because of it, or why nothing does."""
