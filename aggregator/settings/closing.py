"""When a round closes, and who takes part in it."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aggregator.presence import Sample
from aggregator.rounds import Quorum
from console import AsText


def _number_as_text(value: object) -> object:
    """A YAML file may say ``quorum: 3``."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


SampleAsText = Annotated[AsText[Sample], BeforeValidator(_number_as_text)]
QuorumAsText = Annotated[AsText[Quorum], BeforeValidator(_number_as_text)]


class ClosingSettings(BaseModel):
    """Mixed into the settings of a run; its quorum is the command's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deadline_s: Annotated[float, Field(gt=0)] | None = Field(
        600.0, description="seconds after which a round closes without its quorum; none: never"
    )
    min_updates: Annotated[int, Field(ge=1)] | None = Field(
        None, description="fewest updates that a round needs; by default 1, or as many as --robust needs"
    )
    on_short: Literal["extend", "accept", "abandon"] = Field(
        "extend",
        description="at the deadline with fewer updates: extend (wait on), accept (use them) or abandon (drop them)",
    )
    sample: SampleAsText | None = Field(
        None,
        description="workers that take part in a round, drawn anew for each: a share (0.1 or 10%), a count of those"
        " present (10), or 10x1.3 to ask 13 and close with 10; none: all",
    )
    grace_s: Annotated[float, Field(ge=0)] = Field(0.0, description="seconds a round stays open after its quorum")
    max_staleness: Annotated[int, Field(ge=0)] = Field(
        0,
        description="fold updates up to this many rounds late, weighted by 1/sqrt(1 + rounds late); 0: drop them",
    )
