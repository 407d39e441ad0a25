"""All that can be set of the operators' commands."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import CliPositionalArg

from broker import OF_SENDERS, BrokerSettings
from broker.rabbitmq import ID_DIGITS, MAX_LIMIT
from broker.wire import QueueName, RunName, Topology, WorkerName
from console import CommandSettings
from identities import RosterSettings


class StatusSettings(BrokerSettings, RosterSettings):
    """One call of the command."""

    read_past = OF_SENDERS | {"key", "opening_key"}

    is_json: bool = Field(False, alias="json", description="print one JSON object")
    watch: bool = Field(False, description="print it again each second, until the run is over")


class DeadSettings(BrokerSettings):
    """One call of the command."""

    read_past = OF_SENDERS | {"key", "opening_key", "roster", "roster_key"}

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


class KeysSettings(CommandSettings):
    """One call of the command."""

    is_ungrouped = True

    command: CliPositionalArg[Literal["new", "show", "roster", "sign", "revoke", "permissions"]] = Field(
        description="new, show, roster, sign, revoke or permissions"
    )
    names: CliPositionalArg[list[str]] = Field(
        default=[],
        description="new: the key's name; show: files to show; roster: files NAME.pub to put onto it; sign: a worker's"
        " file NAME.pub, or a roster that was changed by hand; revoke: names, key ids or files NAME.pub;"
        " permissions: names of the broker's users",
    )
    role: Literal["worker", "aggregator", "partial", "keeper", "operator", "admin", "onlooker"] = Field(
        "worker", description="new, permissions: whom the key or the broker's user is for; a site is a worker"
    )
    keys: Path = Field(
        Path("keys"),
        description="new: folder that the key's files are written to; roster, sign, revoke: folder of the admin's key",
    )
    key: Path | None = Field(
        None,
        description="roster, revoke: the admin's private key, by default admin.key in --keys; sign: the same for a"
        " roster, and for a worker's NAME.pub its site's private key",
    )
    roster: Path = Field(Path("roster.yaml"), description="roster, revoke: file of the roster")
    roster_key: str | None = Field(
        None,
        description="show, roster: key that must have signed the roster: the fingerprint of the admin's key, or its"
        " file admin.pub",
    )
    federation: RunName | None = Field(None, description="roster: the federation's name, when it is begun")
    min_sites: Annotated[int, Field(ge=0)] | None = Field(
        None, description="roster: a floor for results of few sites; kept for later, nothing asks for it yet"
    )
    sealed_to: WorkerName | None = Field(
        None, description="roster: the aggregator that updates are sealed to; the first one, unless given"
    )
    days: float = Field(7.0, gt=0, le=366, description="sign: days that a worker's certificate is valid")

    queue: QueueName = Field("updates", description="permissions: name of the federation's results queue")
    vhost: str = Field("/", description="permissions: the broker's virtual host")
    elastic: bool = Field(
        False, description="permissions: the user of a site may speak for each of its workers, NAME-…"
    )
    shard: Annotated[int, Field(ge=0)] | None = Field(
        None, description="permissions: the shard of a partial aggregator's user; none: any"
    )
    is_json: bool = Field(False, alias="json", description="permissions: as definitions that RabbitMQ imports")
    password: SecretStr | None = Field(
        None, description="permissions --json: password of these users, for definitions that make the users as well"
    )

    @model_validator(mode="after")
    def _arguments_belong_to_the_command(self) -> Self:
        if self.command == "new" and len(self.names) != 1:
            raise ValueError("new takes one name, such as: fl-keys new hospital-a --role worker")
        if self.command == "new" and self.role == "onlooker":
            raise ValueError("who only looks on signs nothing, and needs no key")
        if self.command == "permissions" and self.role == "admin":
            raise ValueError("the admin signs the roster, and is no user of the broker")
        if self.command in ("show", "sign", "revoke", "permissions") and not self.names:
            raise ValueError(f"{self.command} takes at least one argument; see the examples in --help")
        if self.command == "roster" and not all(name.endswith(".pub") for name in self.names):
            raise ValueError("roster takes public keys' files, NAME.pub; another roster file is named with --roster")
        return self

    @property
    def admin_key(self) -> Path:
        return self.key or self.keys / "admin.key"
