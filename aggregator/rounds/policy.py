"""When a round ends: a pure state machine. The clock is passed in; nothing here waits or counts on its own."""

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from aggregator.state import ClosedBy

_LAST_EVALUATION_S = 60.0
"""The sites have at least this long to measure the last model."""


class OnShort(StrEnum):
    """What to do at the deadline with fewer updates than ``min_updates``."""

    EXTEND = "extend"
    ACCEPT = "accept"
    ABANDON = "abandon"


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many updates are enough: a count, or a share of the workers present."""

    count: int | None = None
    share: float | None = None
    text: str = field(default="", compare=False, repr=False)
    """As the user wrote it; empty if it was not parsed."""

    @classmethod
    def parse(cls, text: str) -> "Quorum":
        """``3`` is a count; ``80%`` and ``0.8`` are shares. Anything else is a ValueError."""
        try:
            if text.endswith("%"):
                return cls._of_share(float(text[:-1]) / 100, text)
            if "." in text:
                return cls._of_share(float(text), text)
            if int(text) >= 1:
                return cls(count=int(text), text=text)
        except ValueError:
            pass
        raise ValueError("expected a count such as 3, or a share of the workers present such as 80% or 0.8")

    @classmethod
    def _of_share(cls, share: float, text: str) -> "Quorum":
        if not 0 < share <= 1:
            raise ValueError(share)
        return cls(share=share, text=text)

    def target(self, num_present: int, *, num_unable: int = 0) -> int:
        """The number of updates wanted while ``num_present`` workers are present; at least 1.

        ``num_unable`` others have said that they have none: a count does not wait for them.
        """
        if self.share is None:
            return max(1, (self.count or 1) - num_unable)
        return max(1, math.ceil(round(self.share * num_present, 9)))

    def is_hopeless(self, num_present: int, *, num_unable: int) -> bool:
        """Whether all that it waits for have said that they have no update."""
        return num_unable > 0 and (num_present if self.share is not None else (self.count or 1) - num_unable) <= 0

    def counted(self, num_present: int) -> "Quorum":
        """The same as a count, for a number of workers that is known and stays the same."""
        return Quorum(count=self.target(num_present))

    @property
    def in_words(self) -> str:
        return str(self) if self.share is None else f"{self.share:.0%} of those present"

    def __str__(self) -> str:
        return self.text or (str(self.count) if self.share is None else f"{100 * self.share:g}%")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPolicy:
    """The rules for all rounds of a run. Times in seconds."""

    quorum: Quorum
    deadline_s: float | None
    grace_s: float = 0.0
    min_updates: int = 1
    on_short: OnShort = OnShort.EXTEND
    max_staleness: int = 0

    def target(self, num_present: int, *, num_unable: int = 0) -> int:
        return max(self.min_updates, self.quorum.target(num_present, num_unable=num_unable))

    def wanted(self, num_asked: int | None) -> int:
        """How many workers have to be there for a round to close before its deadline, whoever is there now.

        A share of those present is satisfied by as many as the floor asks for. ``num_asked``: a sample of so many.
        """
        return max(self.min_updates, self.quorum.count or 1, num_asked or 0)

    def of_these(self, number: int | None) -> "RoundPolicy":
        """The same where no more than so many workers can answer (None: it is not known): a count waits for no more."""
        if number is None or self.quorum.count is None:
            return self
        return replace(self, quorum=Quorum(count=max(1, min(number, self.quorum.count))))

    def falls_short(self, num_folded: int, *, num_unable: int) -> bool:
        """Whether all that a count waits for have answered, and their updates are fewer than the floor."""
        return (
            self.quorum.share is None
            and num_unable > 0
            and self.quorum.target(0, num_unable=num_unable) <= num_folded < self.min_updates
        )

    def of_last_evaluation(self, *, longest_s: float) -> "RoundPolicy":
        """The rules by which the sites are waited for that measure the last model: never for longer than a round took.

        ``longest_s`` is how long the longest round took.
        """
        most_s = max(_LAST_EVALUATION_S, longest_s)
        deadline_s = most_s if self.deadline_s is None else min(most_s, self.deadline_s)
        return replace(self, deadline_s=deadline_s, grace_s=0.0, min_updates=1, on_short=OnShort.ACCEPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The open round. All times are of one monotonic clock."""

    number: int
    opened_at: float
    deadline_at: float | None
    quorum_at: float | None = None
    """When the quorum was reached, while the grace lasts."""
    is_extended: bool = False
    paused_at: float | None = None
    """Not None: since then it is paused. Nothing ends it, and its time stands still."""

    def paused(self, *, now: float) -> "Round":
        """The same, paused from ``now`` on, unless it is already."""
        return self if self.paused_at is not None else replace(self, paused_at=now)

    def resumed(self, *, now: float) -> "Round":
        """The same, not paused any more; deadline and grace are as far away as when it was paused."""
        if self.paused_at is None:
            return self
        stood_s = now - self.paused_at
        deadline_at = None if self.deadline_at is None else self.deadline_at + stood_s
        quorum_at = None if self.quorum_at is None else self.quorum_at + stood_s
        return replace(self, paused_at=None, deadline_at=deadline_at, quorum_at=quorum_at)

    @classmethod
    def open(cls, number: int, policy: RoundPolicy, *, now: float) -> "Round":
        deadline_at = None if policy.deadline_s is None else now + policy.deadline_s
        return cls(number=number, opened_at=now, deadline_at=deadline_at)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before ``until`` (None: until something happens)."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Close:
    """The round is over."""

    by: ClosedBy


@dataclass(frozen=True, slots=True)
class Extended:
    """The deadline passed with too few updates; the round goes on until it has ``min_updates``."""

    until: float


Decision = Wait | Close | Extended


def decide(
    policy: RoundPolicy, state: Round, *, now: float, num_folded: int, num_present: int, num_unable: int = 0
) -> tuple[Round, Decision]:
    """What is to be done at ``now``, and the round as it is after that.

    ``num_unable`` workers, not among the ``num_present``, have said that they have no update. A round without any
    update that nobody can bring one to is over at once, and so is one that would wait for its floor though everybody
    has answered.
    """
    if state.paused_at is not None:
        return state, Wait(None)
    if state.is_extended and num_folded >= policy.min_updates:
        return state, Close(ClosedBy.DEADLINE)
    if num_folded >= policy.target(num_present, num_unable=num_unable):
        if policy.grace_s == 0:
            return state, Close(ClosedBy.QUORUM)
        state = replace(state, quorum_at=now if state.quorum_at is None else state.quorum_at)
    elif state.quorum_at is not None:
        state = replace(state, quorum_at=None)  # the quorum is a share, and more workers are present than before
    if state.quorum_at is not None and now >= state.quorum_at + policy.grace_s:
        return state, Close(ClosedBy.QUORUM)
    is_hopeless = num_folded == 0 and policy.quorum.is_hopeless(num_present, num_unable=num_unable)
    if is_hopeless or (num_folded >= num_present and policy.falls_short(num_folded, num_unable=num_unable)):
        return state, Close(ClosedBy.SHORT if policy.on_short is OnShort.ACCEPT else ClosedBy.ABANDONED)
    if state.deadline_at is not None and now >= state.deadline_at:
        return _at_deadline(policy, state, now, num_folded)
    grace_until = None if state.quorum_at is None else state.quorum_at + policy.grace_s
    times = [time for time in (grace_until, state.deadline_at) if time is not None]
    return state, Wait(min(times, default=None))


def _at_deadline(policy: RoundPolicy, state: Round, now: float, num_folded: int) -> tuple[Round, Decision]:
    if num_folded >= policy.min_updates:
        return state, Close(ClosedBy.DEADLINE)
    if policy.on_short is OnShort.ACCEPT:
        return state, Close(ClosedBy.SHORT)
    if policy.on_short is OnShort.ABANDON:
        return state, Close(ClosedBy.ABANDONED)
    until = now + (policy.deadline_s or 0.0)
    return replace(state, deadline_at=until, is_extended=True), Extended(until)
