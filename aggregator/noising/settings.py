"""The flags of differential privacy."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from console import AsText, NoneAsText
from privacy import Budget

_ADAPTIVE = "adaptive"
_START = 0.1
"""The clip that an adaptive one begins with, as in Andrew et al. 2021."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The norm that no update exceeds: a fixed one, or one that follows a quantile of the workers' norms."""

    start: float
    quantile: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``0.5``, ``adaptive:0.5`` (the quantile) or ``adaptive:0.5:0.2`` (with the clip it begins with)."""
        word, _, rest = text.partition(":")
        expected = f"expected a norm (0.5), or adaptive:QUANTILE or adaptive:QUANTILE:START, not {text!r}"
        try:
            if word != _ADAPTIVE:
                clip = cls(float(text))
            else:
                quantile, _, start = rest.partition(":")
                clip = cls(float(start) if start else _START, float(quantile))
        except ValueError:
            raise ValueError(expected) from None
        if not 0 < clip.start < 2.0**20 or not 0 < (0.5 if clip.quantile is None else clip.quantile) < 1:
            raise ValueError(f"{expected}; a norm is above 0, a quantile between 0 and 1")
        return clip

    def __str__(self) -> str:
        return f"{self.start:g}" if self.quantile is None else f"{_ADAPTIVE}:{self.quantile:g}:{self.start:g}"


class NoiseSettings(BaseModel):
    """Mixed into the settings of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dp_clip: AsText[Clip] | None = Field(
        None,
        description="differential privacy: the norm, over all tensors that travel, to which each worker clips its"
        " update (0.5), or adaptive:0.5 for one that follows the median norm; with --dp-noise, --dp-epsilon and"
        " --dp-delta (fl-privacy says what they come to; docs/privacy.md)",
    )
    dp_noise: Annotated[float, Field(gt=0, lt=2**20)] | None = Field(
        None, description="standard deviation of the noise in the sum of a round's updates, in multiples of --dp-clip"
    )
    dp_epsilon: Annotated[float, Field(gt=0, lt=2**20)] | None = Field(
        None,
        description="budget: the run ends before a model would take it beyond this epsilon, for one worker zeroed out"
        " or not",
    )
    dp_delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="delta of that budget: well below one in the number of workers"
    )
    dp_spent: Annotated[float, Field(ge=0)] = Field(
        0.0, description="what earlier runs on the same data spent: their sum of 1/noise^2, which summary.json has"
    )
    dp_where: Annotated[Literal["server", "workers"], NoneAsText] = Field(
        "server",
        description="who adds the noise: server (the keepers with --privacy secure, otherwise the aggregator), or"
        " workers, each to its own update: more noise by far, not recommended",
    )

    @property
    def is_noised(self) -> bool:
        return self.dp_noise is not None

    @model_validator(mode="after")
    def _noise_has_all_it_needs(self) -> Self:
        given = {
            "--dp-clip": self.dp_clip,
            "--dp-noise": self.dp_noise,
            "--dp-epsilon": self.dp_epsilon,
            "--dp-delta": self.dp_delta,
        }
        missing = [flag for flag, value in given.items() if value is None]
        if 0 < len(missing) < len(given):
            raise ValueError(f"differential privacy needs {', '.join(given)}; {', '.join(missing)} is missing")
        if not missing and not self.budget.may_release_another():
            raise ValueError(
                f"--dp-epsilon {self.dp_epsilon:g} at --dp-delta {self.dp_delta:g} does not allow a single model with"
                f" --dp-noise {self.dp_noise:g}"
                + (f" after --dp-spent {self.dp_spent:g}" if self.dp_spent else "")
                + "; fl-privacy says which noise it takes"
            )
        return self

    @property
    def budget(self) -> Budget:
        """As a run begins with it; only where there is noise."""
        assert self.dp_clip is not None
        assert self.dp_noise is not None
        assert self.dp_epsilon is not None
        assert self.dp_delta is not None
        return Budget(
            clip=self.dp_clip.start,
            noise=self.dp_noise,
            epsilon=self.dp_epsilon,
            delta=self.dp_delta,
            spent_mu2=self.dp_spent,
        )
