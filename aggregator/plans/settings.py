"""The flags of schedules, one for each setting that may follow one."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from aggregator.plans.schedule import Schedule
from aggregator.plans.scheduled import Scheduled, schedule_of, scheduled_in
from console import AsText


class ScheduleSettings(BaseModel):
    """Mixed into the settings of a run, which have what is scheduled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr_schedule: AsText[Schedule] | None = Field(
        None,
        description="lr by round: cosine:0.05:0.001:100 (from, to, reached in this round), linear:0.05:0.001:100,"
        " step:0.5@10,20 (times 0.5 from each of these rounds on), warmup:5, or several: warmup:5+step:0.5@10,20; it"
        " does not depend on --rounds, and stays at its last value; fl-run set lr=… ends it",
    )
    epochs_schedule: AsText[Schedule] | None = Field(
        None, description="epochs by round, as --lr-schedule; the nearest whole number, at least 1"
    )
    mu_schedule: AsText[Schedule] | None = Field(None, description="mu by round, as --lr-schedule")
    server_lr_schedule: AsText[Schedule] | None = Field(None, description="server-lr by round, as --lr-schedule")
    sample_schedule: AsText[Schedule] | None = Field(
        None,
        description="sample by round, as --lr-schedule: a share (linear:0.1:0.5:50), or between whole numbers a count"
        " (linear:5:20:50)",
    )

    @property
    def schedules(self) -> dict[str, Scheduled]:
        """The settings that follow a schedule, by name."""
        return scheduled_in(self.unscheduled)

    @property
    def unscheduled(self) -> Mapping[str, Any]:
        """The values of all settings, without schedules."""
        return dict(self)

    @model_validator(mode="after")
    def _schedules_stay_within_bounds(self) -> Self:
        for name, scheduled in self.schedules.items():
            flag = f"--{schedule_of(name).replace('_', '-')} {scheduled.schedule}"
            if scheduled.moves_nothing:
                lacking = f"{name}, which is {'not given' if name == 'sample' else 0}"
                raise ValueError(f"{flag} multiplies {lacking}: give --{name}, or a cosine or line")
            allowed: TypeAdapter[object] = TypeAdapter(type(self).model_fields[name].rebuild_annotation())
            for value in scheduled.bounds():
                try:
                    allowed.validate_python(scheduled.typed(value) if name == "sample" else value)
                except ValidationError as error:
                    said = error.errors()[0]["msg"].removeprefix("Value error, ").replace("Input", name)
                    raise ValueError(f"{flag}: {name} may become {value:g}; {said}") from None
        return self
