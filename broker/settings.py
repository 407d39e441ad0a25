"""The settings of the wire, and how any command reads its settings: flag, then environment, then file, then default."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, Field, FilePath, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from broker.errors import SettingsError
from broker.log_lines import LogFormat
from broker.messages import MAX_PART_BYTES, QueueName

S = TypeVar("S", bound=BaseSettings)
ENV_PREFIX = "FEDMQ_"
_NONE = "none"


def _checked_url(url: SecretStr) -> SecretStr:
    if not _is_broker_url(url.get_secret_value()):
        raise ValueError("not a broker's URL; expected amqp://USER:PASSWORD@HOST:5672/VHOST, or amqps://…")
    return url


BrokerUrl = Annotated[SecretStr, AfterValidator(_checked_url)]


class WireSettings(BaseSettings):
    """How to behave towards a broker, whichever it is."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_parse_none_str=_NONE,
        env_parse_none_str=_NONE,
    )

    tls_ca: FilePath | None = Field(None, description="PEM file of the authority that signed the broker's certificate")
    tls_cert: FilePath | None = Field(None, description="PEM file of our own certificate, for brokers that ask for one")
    tls_key: FilePath | None = Field(None, description="PEM file of its key")
    connect_timeout_s: float = Field(
        15.0, ge=0, description="seconds to try for the first connection; a lost one is tried for ever"
    )
    heartbeat_s: int = Field(60, ge=2, le=3600, description="seconds between AMQP heartbeats")
    blocked_timeout_s: float = Field(
        300.0, gt=0, description="seconds to wait for a broker short of memory or disk before connecting anew"
    )
    inline_cap: int = Field(
        MAX_PART_BYTES,
        ge=0,
        le=MAX_PART_BYTES,
        description="bytes up to which a model or update travels in one message, and not as a blob",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="what is logged")
    log_format: LogFormat = Field("text", description="log lines for people, or one JSON object a line")
    live: bool = Field(True, description="show progress live where standard error is a terminal, and not as log lines")


class BrokerSettings(WireSettings):
    """Which broker, and which federation on it."""

    broker: BrokerUrl = Field(
        SecretStr("amqp://guest:guest@localhost:5672/"),
        description="URL of RabbitMQ, amqp:// or amqps://, with user and password",
    )
    queue: QueueName = Field("updates", description="name of the results queue; all other names derive from it")


class ServiceSettings(BrokerSettings):
    """A command that runs for days, and is watched."""

    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="port at which Prometheus is told metrics, under /metrics; none: it is not"
    )
    metrics_host: str = Field("127.0.0.1", description="address of that port; 0.0.0.0: whoever reaches this machine")


def _is_broker_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number; the text would show a part of the password
        return False


def redacted(url: SecretStr | str) -> str:
    """The URL without its password, for logs."""
    parts = urlsplit(url.get_secret_value() if isinstance(url, SecretStr) else url)
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{user}{host}{port}{parts.path}"


def without_password(word: str) -> str:
    """An argument of a command as others may see it: a URL in it with PASSWORD in place of the password."""
    return re.sub(r"(//[^/@\s:]*):\S*@", r"\1:PASSWORD@", word)


def read_settings(settings: type[S], argv: Sequence[str] | None, *, prog: str, description: str, examples: str) -> S:
    """The settings of one command, from flags, environment and the file that ``--config`` names.

    All problems are in one SettingsError. ``--help`` and unknown flags end the process, as argparse does.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with settings, one `name: value` a line")
    flags: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        settings, root_parser=parser, cli_parse_args=list(argv) if argv is not None else True
    )
    known, _ = _config_parser().parse_known_args(argv)
    from_file = InitSettingsSource(settings, _read_yaml(settings, known.config)) if known.config else None

    class Sourced(settings):  # type: ignore[valid-type,misc]
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (flags, env_settings, *([from_file] if from_file else []))

    try:
        return Sourced()
    except ValidationError as error:
        raise SettingsError(explained(error, prog)) from error


class _Parser(argparse.ArgumentParser):
    """Says what is wrong without repeating a password that was part of it."""

    def error(self, message: str) -> NoReturn:
        super().error(re.sub(r"//[^/@\s]*:[^@\s]*@", "//…@", message))


def _config_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser


def _read_yaml(settings: type[BaseSettings], path: str) -> dict[str, object]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # only where and what: the text of the line may hold a password
        mark = getattr(error, "context_mark", None) or getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else ""
        raise SettingsError(f"--config {path} is not valid YAML{where}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SettingsError(f"--config {path}: expected `name: value` lines")
    content = {key.replace("-", "_"): None if value == _NONE else value for key, value in content.items()}
    unknown = sorted(set(content) - set(settings.model_fields))
    if unknown:
        raise SettingsError(
            f"--config {path}: unknown setting {', '.join(unknown)}; known are {', '.join(settings.model_fields)}"
        )
    return content


def explained(error: ValidationError, prog: str) -> str:
    """All that is wrong with the settings of a command, on one line, without the broker's URL."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        given = "" if name == "broker" or not name else f" (given: {problem['input']!r})"
        flag = f"--{name.replace('_', '-')}: " if name else ""
        problems.append(f"{flag}{problem['msg'].removeprefix('Value error, ')}{given}")
    return f"{'; '.join(problems)}. See {prog} --help."
