"""All that can be set of the operators' commands."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_settings import CliPositionalArg

from broker import BrokerSettings
from broker.rabbitmq import ID_DIGITS, MAX_LIMIT
from broker.wire import Topology


class StatusSettings(BrokerSettings):
    """One call of the command."""

    is_json: bool = Field(False, alias="json", description="print one JSON object")
    watch: bool = Field(False, description="print it again each second, until the run is over")


class DeadSettings(BrokerSettings):
    """One call of the command."""

    command: CliPositionalArg[Literal["list", "show", "replay", "drop"]] = Field(
        description="list, show, replay or drop"
    )
    ids: CliPositionalArg[list[Annotated[str, StringConstraints(to_lower=True)]]] = Field(
        default=[], description="IDs as `list` prints them; show takes one, replay and drop any number"
    )
    all: bool = Field(False, description="replay or drop all dead letters that were looked at")
    worker: str | None = Field(None, description="with list or --all: only those from this worker")
    limit: int = Field(1000, ge=1, le=MAX_LIMIT, description="how many dead letters to look at, oldest first")
    yes: bool = Field(False, description="drop without asking")
    is_json: bool = Field(False, alias="json", description="list: one JSON object a line")

    @model_validator(mode="after")
    def _arguments_belong_to_the_command(self) -> Self:
        if self.command == "list" and self.ids:
            raise ValueError("list takes no ID; `show ID` tells all of one")
        if self.command == "show" and len(self.ids) != 1:
            raise ValueError("show takes one ID, as `list` prints it")
        if self.command in ("replay", "drop") and bool(self.ids) == self.all:
            raise ValueError(f"{self.command} takes IDs, as `list` prints them, or --all")
        if self.worker is not None and self.ids:
            raise ValueError("--worker goes with list or --all, not with IDs")
        for given in self.ids:
            if len(given) != ID_DIGITS or set(given) - set("0123456789abcdef"):
                raise ValueError(f"{given!r} is no ID; an ID is the {ID_DIGITS} hex digits that `list` prints")
        return self

    @property
    def dead(self) -> str:
        """The queue's name."""
        return Topology(self.queue).dead
