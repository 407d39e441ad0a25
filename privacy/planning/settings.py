"""All that can be set of the command."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from console import CommandSettings
from privacy.accountant import LEAST_NOISE, MOST_NOISE

_MOST_ROUNDS = 10**9


class PrivacySettings(CommandSettings):
    """One call of the command."""

    noise: Annotated[float, Field(ge=LEAST_NOISE, le=MOST_NOISE)] | None = Field(
        None,
        description="standard deviation of the noise on each coordinate of the sum, in units of the clip; the epsilon"
        " that it comes to is printed",
    )
    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="epsilon of the whole run; the least noise that keeps within it is printed"
    )
    rounds: int = Field(ge=1, le=_MOST_ROUNDS, description="rounds, in each of which one sum is released")
    delta: float = Field(
        1e-5,
        gt=0,
        lt=1,
        description="probability that is left out of what epsilon promises; well below one in the number of workers",
    )
    dp_spent: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="mu^2 that earlier runs on the same data have spent, as the last line of this command has it",
    )
    workers: Annotated[int, Field(ge=1)] | None = Field(
        None, description="workers whose updates are in each sum; with --parameters: whether the noise drowns them"
    )
    parameters: Annotated[int, Field(ge=1)] | None = Field(
        None, description="numbers that an update has: all elements of all tensors that are shared"
    )
    is_json: bool = Field(False, alias="json", description="print one JSON object")

    @model_validator(mode="after")
    def _one_of_two_is_asked_for(self) -> Self:
        if (self.noise is None) == (self.epsilon is None):
            raise ValueError("give --noise, to learn epsilon, or --epsilon, to learn the noise")
        if (self.workers is None) != (self.parameters is None):
            raise ValueError("--workers and --parameters are given together: the ratio of noise to signal needs both")
        return self
