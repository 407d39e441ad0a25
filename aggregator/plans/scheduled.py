"""The settings that may follow a schedule, each with its own: what they are in a round."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aggregator.plans.schedule import Schedule

SCHEDULED = ("lr", "epochs", "mu", "server_lr", "sample")
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
    """Its value without the schedule; 0 also if it has none."""
    is_whole: bool
    """Whether its values are whole numbers: the nearest one counts, half up, and at least 1."""
    suffix: str = ""
    """What follows the number where it is typed."""

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
        return self.typed(self.at(number))

    def typed(self, value: float) -> str:
        """One of its values as somebody would type it."""
        return f"{value!r}{self.suffix}"

    @property
    def moves_nothing(self) -> bool:
        """Whether it only multiplies a setting that is 0."""
        return self.schedule.curve is None and self.own == 0


def scheduled_in(settings: Mapping[str, Any]) -> dict[str, Scheduled]:
    """Those of these settings that have a schedule, by name."""
    schedules = {name: settings.get(schedule_of(name)) for name in SCHEDULED}
    return {
        name: _scheduled(schedule, settings.get(name)) for name, schedule in schedules.items() if schedule is not None
    }


def _scheduled(schedule: Schedule, own: Any) -> Scheduled:
    if isinstance(own, int | float):
        return Scheduled(schedule, float(own), is_whole=isinstance(own, int))
    number, times, over = str(own or 0).partition("x")
    is_count = schedule.is_whole if schedule.curve is not None else "." not in number and "%" not in number
    return Scheduled(schedule, number_of(number), is_whole=is_count, suffix=times + over if is_count else "")


def number_of(value: Any) -> float:
    """The number in a setting's value, which may be text: that of 10x1.3 is 10, and that of 10% is 0.1."""
    number = str(value).partition("x")[0]
    return float(number.removesuffix("%")) / 100 if number.endswith("%") else float(number)
