"""When a run ends, and which of its models is the best."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aggregator.state import Aim, BestBy
from learning import Direction


class EndingSettings(BaseModel):
    """Mixed into the settings of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: Annotated[int, Field(ge=1, lt=2**31)] = Field(20, description="number of rounds")
    stop_metric: str | None = Field(
        None,
        description="stop early on this metric of the central evaluation, or on eval.NAME of the workers' evaluations,"
        " of which the median counts, with one vote a worker, if more than half of the workers in a round measure it",
    )
    stop_direction: Literal["min", "max"] | None = Field(
        None,
        description="whether a smaller (min) or a larger (max) value of that metric is better; by default its name"
        " decides: losses and errors are better when smaller, others when larger",
    )
    best_by: BestBy = Field(
        "median",
        description="what makes a model the best, where only the sites measure it: the median, with one vote a site, or"
        " their mean, weighted by the samples that each evaluated on, as far as --max-samples and --max-weight let it;"
        " --stop-metric goes by the median in any case",
    )
    stop_at: float | None = Field(None, description="stop once the metric is at least this good")
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="stop after this many rounds without a better value of the metric; 0: never"
    )

    @model_validator(mode="after")
    def _early_stop_has_a_metric(self) -> Self:
        if self.stop_metric is None and (self.stop_at is not None or self.patience):
            raise ValueError("--stop-at and --patience need --stop-metric, such as --stop-metric accuracy")
        if self.stop_metric is None and self.stop_direction is not None:
            raise ValueError("--stop-direction needs --stop-metric, such as --stop-metric accuracy")
        return self

    @property
    def aim(self) -> Aim:
        direction = None if self.stop_direction is None else Direction(self.stop_direction)
        return Aim(self.stop_metric, direction, self.best_by)
