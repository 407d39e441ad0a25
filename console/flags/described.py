"""The settings of a command in readable form, from the model that checks them."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from console.flags.arguments import Arguments

OWN = "Most of all"
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "When a round closes": (
        "quorum",
        "deadline_s",
        "grace_s",
        "min_updates",
        "on_short",
        "max_staleness",
    ),
    "How updates are averaged": ("weighting", "clip_norm", "robust", "server_optimizer", "server_lr", "compiled_fold"),
    "Local training": ("epochs", "batch_size", "lr", "momentum", "mu", "max_steps", "plan_args"),
    "By schedule": ("lr_schedule", "epochs_schedule", "mu_schedule", "server_lr_schedule", "sample_schedule"),
    "What travels": ("shared", "require_same_base", "compression", "zstd", "inline_cap", "part_bytes"),
    "When to stop early": ("stop_metric", "stop_direction", "stop_at", "patience"),
    "What is kept": ("best_by", "keep_every", "commit_every_s", "tensorboard", "mlflow"),
    "Partial aggregators": ("role", "shards", "shard", "flush_s"),
    "Who signs and who counts": ("roster", "roster_key", "key", "opening_key", "workers_allowed"),
    "What one update may do": ("max_samples", "max_weight"),
    "Which runs a site answers": ("require", "min_batch", "max_steps_at_least", "allow_shared"),
    "Recovery": ("take_over", "trust_state", "server_state"),
    "The broker": (
        "broker",
        "over_rabbitmq",
        "queue",
        "connect_timeout_s",
        "heartbeat_s",
        "blocked_timeout_s",
        "tls_ca",
        "tls_cert",
        "tls_key",
        "trusted_network",
    ),
    "Log and metrics": ("log_level", "log_format", "live", "metrics_port", "metrics_host", "hung_after_s"),
    "Who may ask for page and metrics": ("token", "allowed_hosts"),
}
"""Groups as readers look for them. Settings in no group come first, as the command's own, in the model's order."""
ENV_PREFIX = "FEDMQ_"
GROUP_OF: Mapping[str, str] = {name: group for group, names in _GROUPS.items() for name in names}
_FIRST = ("task", "name", "run", "rounds", "workers", "sites", "task_args", "script", "state")
"""The settings that users set before all others, where a command has them."""

_NAMES = {int: "number", float: "number", str: "text", bool: "yes or no", Path: "path", SecretStr: "text"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``default`` is written as in YAML."""

    name: str
    group: str
    kind: str
    default: str
    description: str

    @property
    def flag(self) -> str:
        return flag_of(self.name)

    @property
    def variable(self) -> str:
        return f"{ENV_PREFIX}{self.name.upper()}"


def flag_of(name: str) -> str:
    """The flag of a setting as people write it: of what is given one by one, the singular."""
    return f"--{name.removesuffix('s') if name.endswith('_args') else name}".replace("_", "-")


def described(settings: type[BaseSettings]) -> list[Setting]:
    """All settings of a command, group by group, except positional arguments of its command line."""
    return sorted(_settings(settings), key=_place)


def words(settings: type[BaseSettings]) -> list[tuple[str, str]]:
    """The positional arguments of a command's line as its usage shows them, each with its description."""
    found = []
    for name, field in settings.model_fields.items():
        if is_word(field):
            word = name.upper() if field.is_required() else f"[{name.upper()} ...]"
            found.append((word, field.description or ""))
    return found


def _place(setting: Setting) -> tuple[int, int]:
    """The sort key of a setting; settings with the same key keep the model's order."""
    if setting.group == OWN:
        return 0, _FIRST.index(setting.name) if setting.name in _FIRST else len(_FIRST)
    names = _GROUPS[setting.group]
    return 1 + [*_GROUPS].index(setting.group), names.index(setting.name)


def _settings(settings: type[BaseSettings]) -> Iterator[Setting]:
    for name, field in settings.model_fields.items():
        if field.annotation is not None and not is_word(field):
            yield Setting(
                name=field.alias or name,
                group=_group_of(name, settings),
                kind="name=value" if isinstance(field.default, Arguments) else _kind(field.annotation, field),
                default=_default(field),
                description=field.description or "",
            )


def _group_of(name: str, settings: type[BaseSettings]) -> str:
    is_own = getattr(settings, "is_ungrouped", False) and name in settings.__annotations__
    return OWN if is_own else GROUP_OF.get(name, OWN)


def is_word(field: FieldInfo) -> bool:
    """Whether a setting is a positional argument of the command's line, and no flag."""
    return any("CliPositionalArg" in repr(mark) for mark in field.metadata)


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
    if isinstance(default, Arguments):
        return "none"
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return f"{default:g}" if isinstance(default, float) else str(default)
