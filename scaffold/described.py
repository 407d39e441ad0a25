"""The settings of a command as a person reads them, out of the model that checks them."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from aggregator.settings import AggregatorSettings, RunSettings
from broker.dead_cli import DeadSettings
from broker.messages import LocalTraining
from broker.settings import ENV_PREFIX, BrokerSettings, ServiceSettings, WireSettings
from broker.status_cli import StatusSettings
from dashboard.settings import DashboardSettings
from simulation.settings import SimulationSettings
from worker.settings import WorkerSettings

COMMANDS: Mapping[str, type[BaseSettings]] = {
    "fl-aggregator": AggregatorSettings,
    "fl-worker": WorkerSettings,
    "fl-simulate": SimulationSettings,
    "fl-dashboard": DashboardSettings,
    "fl-status": StatusSettings,
    "fl-dead": DeadSettings,
}

_GROUPS: Mapping[type, str] = {
    RunSettings: "The run",
    LocalTraining: "Local training",
    BrokerSettings: "The broker",
    WireSettings: "Connection and log",
    ServiceSettings: "Metrics",
}
"""What the settings that a command shares with others are about; those of its own come first."""

_NAMES = {int: "number", float: "number", str: "text", bool: "yes or no", Path: "path", SecretStr: "URL"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``default`` is as one writes it in YAML."""

    name: str
    group: str
    kind: str
    default: str
    description: str

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        return f"{ENV_PREFIX}{self.name.upper()}"


def described(settings: type[BaseSettings]) -> list[Setting]:
    """All settings of a command but those that are words on its command line, group by group."""
    order = ["Its own", *_GROUPS.values()]
    found = list(_settings(settings))
    return sorted(found, key=lambda setting: order.index(setting.group))


def _settings(settings: type[BaseSettings]) -> Iterator[Setting]:
    for name, field in settings.model_fields.items():
        if field.annotation is not None and not _is_word(field):
            yield Setting(
                name=field.alias or name,
                group=_group(settings, name),
                kind=_kind(field.annotation, field),
                default=_default(field),
                description=field.description or "",
            )


def _is_word(field: FieldInfo) -> bool:
    return any("CliPositionalArg" in repr(mark) for mark in field.metadata)


def _group(settings: type, name: str) -> str:
    """That of the class furthest up which declares it, if others share that one."""
    for ancestor in reversed(settings.__mro__):
        if name in vars(ancestor).get("__annotations__", {}):
            return _GROUPS.get(ancestor, "Its own")
    return "Its own"


def _kind(annotation: Any, field: FieldInfo) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(str(choice) for choice in get_args(annotation))
    if origin is Annotated:
        return _kind(get_args(annotation)[0], field)
    if origin in (Union, types.UnionType):
        kinds = [_kind(part, field) for part in get_args(annotation) if part is not type(None)]
        return ", ".join(kinds) + ", none"
    return _NAMES.get(annotation, "path" if isinstance(annotation, type) and issubclass(annotation, Path) else "text")


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is None or default is PydanticUndefined:
        return "none"
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return f"{default:g}" if isinstance(default, float) else str(default)
