"""All that can be set of a keeper."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from broker import ServiceSettings
from identities import IdentitySettings
from keeper.rules import Noise


class KeeperSettings(ServiceSettings, IdentitySettings):
    """One keeper, at an organisation of its own."""

    state: Path = Field(
        Path("keeper-state"),
        description="directory of the keeper's ledger and of the secret that its noise comes from; what was given is"
        " known there only, so keep it on a disk that lasts, and never run two keepers with copies of it",
    )
    min_sites: Annotated[int, Field(ge=2, lt=2**20)] = Field(
        3, description="open no sum of fewer sites than this; the roster and each worker may ask for more"
    )
    dp_noise: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None,
        description="add noise to each sum: its standard deviation, in multiples of the norm to which workers clip;"
        " needs --dp-epsilon and --dp-delta",
    )
    dp_epsilon: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="budget: give no sum with which all sums so far would exceed this epsilon"
    )
    dp_delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="the delta at which that epsilon holds, such as 1e-5"
    )
    dp_spent: Annotated[float, Field(ge=0, lt=2**40)] = Field(
        0.0,
        description="what was spent on the same data before this ledger began: mu^2, the sum of 1 / noise^2, as"
        " fl-privacy and summary.json have it",
    )
    takes_running: bool = Field(
        False,
        description="with a new ledger, answer for a run that is past its first round: only if no ledger was lost",
    )
    check: bool = Field(
        False,
        description="only check the settings, whether the key is on the roster, and that the broker and the queue are"
        " there; exit code 0 if so",
    )

    @model_validator(mode="after")
    def _a_keeper_believes_nobody(self) -> Self:
        if self.roster is None:
            raise ValueError("a keeper needs --roster, --roster-key and --key: it believes nobody without a signature")
        return self

    @model_validator(mode="after")
    def _noise_has_a_budget(self) -> Self:
        given = (self.dp_noise, self.dp_epsilon, self.dp_delta)
        if any(value is None for value in given) and any(value is not None for value in given):
            raise ValueError("--dp-noise, --dp-epsilon and --dp-delta go together: noise without a budget has no end")
        if self.dp_spent and self.dp_noise is None:
            raise ValueError("--dp-spent is the beginning of a budget, and needs --dp-noise")
        return self

    @property
    def noise(self) -> Noise | None:
        """The noise to add; None: there is none."""
        if self.dp_noise is None or self.dp_epsilon is None or self.dp_delta is None:
            return None
        return Noise(self.dp_noise, self.dp_epsilon, self.dp_delta, self.dp_spent)
