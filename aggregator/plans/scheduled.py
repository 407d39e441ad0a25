"""The settings that may follow a schedule, each with its own: what they are in a round."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aggregator.plans.schedule import Schedule

SCHEDULED = ("lr", "epochs", "mu", "server_lr")
"""Their names. The schedule of ``lr`` is the setting ``lr_schedule``, and so on."""
_SUFFIX = "_schedule"


def schedule_of(name: str) -> str:
    """The setting that has the schedule of another."""
    return f"{name}{_SUFFIX}"


def scheduled_by(setting: str) -> str | None:
    """The setting that this one is the schedule of; None if it is no schedule."""
    name = setting.removesuffix(_SUFFIX)
    return name if name != setting and name in SCHEDULED else None


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One setting with its schedule."""

    schedule: Schedule
    own: float
    """Its value without the schedule."""
    is_whole: bool
    """Whether its values are whole numbers: the nearest one counts, half up, and at least 1."""

    def at(self, number: int) -> float | int:
        """Its value in a round, counted from 1."""
        return self._as_set(self.schedule.value(number, self.own))

    def bounds(self) -> tuple[float | int, float | int]:
        """All its values lie between these two."""
        low, high = self.schedule.bounds(self.own)
        return self._as_set(low), self._as_set(high)

    def _as_set(self, value: float) -> float | int:
        return max(1, math.floor(value + 0.5)) if self.is_whole else value

    def text_at(self, number: int) -> str:
        """The same as somebody would type it."""
        return repr(self.at(number))

    @property
    def moves_nothing(self) -> bool:
        """Whether it only multiplies a setting that is 0."""
        return self.schedule.curve is None and self.own == 0


def scheduled_in(settings: Mapping[str, Any]) -> dict[str, Scheduled]:
    """Those of these settings that have a schedule, by name."""
    found = {}
    for name in SCHEDULED:
        schedule = settings.get(schedule_of(name))
        if schedule is not None:
            own = settings[name]
            found[name] = Scheduled(schedule, float(own), is_whole=isinstance(own, int))
    return found
