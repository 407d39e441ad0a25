"""All that can be set of ``fl-run`` and ``fl-model``."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg

from broker import OF_SENDERS, BrokerSettings
from console import CommandSettings
from identities import IdentitySettings

TAKES_NOTHING = ("pause", "resume", "stop", "finish", "list")


class ModelSettings(CommandSettings):
    """One call of ``fl-model``."""

    command: CliPositionalArg[Literal["export"]] = Field(description="export")
    state: CliPositionalArg[Path] = Field(description="the run's state directory")
    round: str = Field("last", description="which model: last, best, or the one after the round of this number")
    to: Path = Field(description="file to write; its ending says the format: .pt, .pth, .safetensors or .md")

    @field_validator("round")
    @classmethod
    def _is_a_round(cls, given: str) -> str:
        if given not in ("last", "best") and not (given.isdecimal() and len(given) < 13):
            raise ValueError("expected last, best or the number of a round")
        return given

    @property
    def which(self) -> int | str:
        """As ``History.model_path`` takes it."""
        return int(self.round) if self.round.isdecimal() else self.round


class RunCommandSettings(BrokerSettings, IdentitySettings):
    """One call of the command."""

    read_past = OF_SENDERS

    command: CliPositionalArg[
        Literal["pause", "resume", "stop", "finish", "set", "exclude", "include", "extend", "list"]
    ] = Field(description="pause, resume, stop, finish, set, exclude, include, extend or list")
    words: CliPositionalArg[list[str]] = Field(
        default=[],
        description="set: settings, such as lr=0.01; exclude, include: names of workers or patterns; extend: rounds",
    )
    now: bool = Field(False, description="finish: do not wait until the open round is closed")
    answer_within_s: Annotated[float, Field(gt=0)] = Field(
        30.0, description="seconds to wait for the aggregator's answer; the command is done later all the same"
    )
    state: Path = Field(Path("state"), description="list: a run's state directory, or a folder with those of several")
    is_json: bool = Field(
        False, alias="json", description="print the answer as one JSON object; list: one JSON object a line"
    )

    @model_validator(mode="after")
    def _words_belong_to_the_command(self) -> Self:
        if self.command in TAKES_NOTHING and self.words:
            flag = {"finish": ", but --now", "list": ", but --state FOLDER"}.get(self.command, "")
            raise ValueError(f"{self.command} takes nothing more{flag}")
        if self.command not in TAKES_NOTHING and not self.words:
            raise ValueError(f"{self.command} takes at least one argument; see the examples in --help")
        if self.now and self.command != "finish":
            raise ValueError("--now goes with finish")
        return self

    @property
    def all_words(self) -> tuple[str, ...]:
        """The words of the message."""
        return ("now",) if self.now else tuple(self.words)
