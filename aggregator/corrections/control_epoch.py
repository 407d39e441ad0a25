"""Since when what a correction keeps adds up: at workers and aggregator, it began at zero after the same round.

A worker that lost what it carried would break that for good: the aggregator's sum still has its old part. So when an
update says so, its round ends the epoch: the model moves, and all begin the next round with nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControlEpoch:
    """Kept with the scalars of each round."""

    number: int = 0
    since: int = 0
    """It began after this round: workers count in it whose updates were folded later."""

    @classmethod
    def of(cls, scalars: Mapping[str, float], *, first: "ControlEpoch") -> "ControlEpoch":
        """The one that the round with these scalars left; ``first`` is the one that the ledger began with."""
        if "control_epoch" not in scalars:
            return first
        return cls(int(scalars["control_epoch"]), int(scalars["control_since"]))

    @property
    def scalars(self) -> dict[str, float]:
        return {"control_epoch": float(self.number), "control_since": float(self.since)}

    def after(self, round_number: int, *, begins_anew: bool) -> "ControlEpoch":
        """The one of the rounds after this one."""
        return ControlEpoch(self.number + 1, round_number) if begins_anew else self
