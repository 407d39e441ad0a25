"""The flags of secure aggregation."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.wire import FEWEST_MIN_SITES, MAX_KEEPERS, Masking
from console import AsText, Names, NoneAsText
from privacy import step_of

MOST_UPDATES = 8192
"""Of one round: so many may add up without leaving the range of their integers."""
_RANGE64 = 2.0**62
"""Steps: half of what 64 bits with a sign hold, so that noise has room."""
_STEP_OF_SAMPLES, _STEP_OF_ONE = 2.0**-24, 2.0**-32
"""An update that weighs as much as its samples needs no finer one: what is cut off is divided by all samples."""


class MaskingSettings(BaseModel):
    """Mixed into the settings of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    privacy: Annotated[Literal["none", "secure"], NoneAsText] = Field(
        "none",
        description="secure: workers mask their updates, and the aggregator sees the sum of at least --min-sites sites"
        " and no single update; needs --roster and a keeper (fl-keeper), which holds the seeds of the masks"
        " (docs/privacy.md)",
    )
    keeper: AsText[Names] = Field(
        Names(("keeper",)),
        description="with --privacy secure: the keepers' names on the roster, separated by commas; nobody sees a single"
        " update unless the aggregator and all of them work together",
    )
    min_sites: Annotated[int, Field(ge=FEWEST_MIN_SITES, lt=2**20)] = Field(
        3, description="with --privacy secure: fewest sites whose sum is ever opened; with two, each knows the other's"
    )
    ring: Literal["ring64", "ring32"] = Field(
        "ring64",
        description="with --privacy secure: the integers that stand for elements; ring32 takes half the bytes, and"
        " needs --most-updates and --ring-range that fit the run; what it cuts off goes into the worker's next update",
    )
    ring_range: Annotated[float, Field(gt=0, lt=2**20)] = Field(
        1.0, description="with --ring ring32: largest change of an element in one update that is taken whole"
    )
    most_updates: Annotated[int, Field(ge=FEWEST_MIN_SITES, le=MOST_UPDATES)] = Field(
        1000, description="with --ring ring32: most updates in one round; fewer make it more exact"
    )
    masked_metrics: AsText[Names] = Field(
        Names(("train.loss", "train.accuracy", "eval.loss", "eval.accuracy")),
        description="with --privacy secure: the workers' metrics whose weighted means are wanted, as train.NAME and"
        " eval.NAME, separated by commas; all others stay at the workers",
    )
    keeper_wait_s: Annotated[float, Field(gt=0)] | None = Field(
        600.0,
        description="with --privacy secure: seconds that a round waits for its masks before it is abandoned; none: for"
        " ever",
    )

    @property
    def is_secure(self) -> bool:
        return self.privacy == "secure"

    @model_validator(mode="after")
    def _names_are_names(self) -> Self:
        if not self.is_secure:
            return self
        if not 1 <= len(self.keeper) <= MAX_KEEPERS or len(set(self.keeper)) != len(self.keeper):
            raise ValueError(f"--keeper takes 1 to {MAX_KEEPERS} different names, not {self.keeper}")
        for name in self.masked_metrics:
            if not name.startswith(("train.", "eval.")) or not name.partition(".")[2]:
                raise ValueError(f"--masked-metrics: {name!r} is neither train.NAME nor eval.NAME")
        return self

    def masking_of(self, *, goes_by_samples: bool, max_samples: int | None) -> Masking | None:
        """How updates are masked that weigh as much as their samples, up to ``max_samples``, or 1; None: not at all."""
        if not self.is_secure:
            return None
        if self.ring == "ring64":
            step = _STEP_OF_SAMPLES if goes_by_samples else _STEP_OF_ONE
            bits, most = 64, _RANGE64 * step / MOST_UPDATES
        else:
            most = self.ring_range * ((max_samples or 1) if goes_by_samples else 1)
            bits, step = 32, step_of(32, most * self.most_updates)
        fields = {
            "bits": bits,
            "step": step,
            "most": most,
            "min_sites": self.min_sites,
            "keepers": tuple(self.keeper),
            "metrics": tuple(self.masked_metrics),
            "most_samples": max_samples,
        }
        return Masking.model_validate(fields)
