"""What all commands so far have made of a run, as one value that the ledger keeps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from aggregator.plans import scheduled_by


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that has another value from a round on; ``value`` as it was typed."""

    from_round: int
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is asked of the run, on top of the settings that its aggregator was started with."""

    is_paused: bool = False
    changes: tuple[Change, ...] = ()
    """In the order in which they were asked for."""
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Names, or patterns of names, of workers that do not count -> the round that was open when this was asked."""
    num_rounds: int | None = None
    """How many rounds the run has; None: as many as the settings say."""
    finish_after: int | None = None
    """The round after which the run ends; None: its last."""
    closes_now: bool = False
    """Whether the open round is closed with what is folded, since the run is to end at once."""

    @classmethod
    def of_fact(cls, fact: Mapping[str, Any] | None) -> Self:
        """From what ``as_fact`` gives; None: nobody has asked for anything."""
        fields = dict(fact or {})
        return cls(**fields | {"changes": tuple(Change(**change) for change in fields.get("changes", ()))})

    def as_fact(self) -> dict[str, Any]:
        """For the ledger."""
        return asdict(self)

    def settings(self, number: int) -> dict[str, str]:
        """The settings that differ in this round, as they were typed."""
        return {change.name: change.value for change in self.changes if change.from_round <= number}

    def after_restart(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> Self:
        """What is left when the aggregator is started with other settings than ``before``: the later word counts.

        A new schedule is a word about the setting that follows it.
        """
        changed = {name for name, value in now.items() if name in before and before[name] != value}
        changed |= {name for name in map(scheduled_by, changed) if name is not None}
        kept = tuple(change for change in self.changes if change.name not in changed)
        if "rounds" not in changed:
            return replace(self, changes=kept)
        return replace(self, changes=kept, num_rounds=None, finish_after=None, closes_now=False)
