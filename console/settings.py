"""How any command reads its settings: flag, then environment, then file, then default."""

import argparse
import json
import logging
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn, Protocol, Self, TypeVar

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from console.command import configure_logging
from console.errors import SettingsError
from console.flags import ENV_PREFIX, Arguments, flag_of, gathered, help_page, is_word, meant
from console.log_lines import LogFormat

log = logging.getLogger(__name__)

S = TypeVar("S", bound=BaseSettings)


class Readable(Protocol):
    """A value that is made of text, by ``parse``, and whose ``str`` is a text that ``parse`` takes."""

    @classmethod
    def parse(cls, text: str, /) -> Self:
        """Anything that does not make sense is a ValueError."""
        ...


R = TypeVar("R", bound=Readable)
_NONE = "none"
SECTIONS = ("aggregator", "worker", "keeper", "simulate", "dashboard")
"""Parts of a file that only the command of that name reads."""


class CommandSettings(BaseSettings):
    """What every command has: its log."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_prefix_target="all",  # the variable of `--json` is FEDMQ_JSON
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_parse_none_str=_NONE,
        env_parse_none_str=_NONE,
    )

    is_ungrouped: ClassVar[bool] = False
    """Whether its own settings belong to one of its subcommands each, as the descriptions say."""
    read_past: ClassVar[frozenset[str]] = frozenset({"live"})
    """Settings of other commands on the same machine that their common file may have, and this command does without."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level that is logged")
    log_format: LogFormat = Field("text", description="log lines for people, or one JSON object a line")


class ProgressSettings(CommandSettings):
    """A command that goes on for a while, and shows how far it is."""

    read_past = frozenset()

    live: bool = Field(
        True, description="show progress live, instead of as log lines, where standard error is a terminal"
    )


if TYPE_CHECKING:
    AsText = Annotated[R, ...]
else:

    class AsText:
        """``AsText[Quorum]``: a setting that is a Quorum, and is given and dumped as text.

        To pydantic-settings it is text too, so it makes no flags of the value's fields, and no JSON of a variable.
        """

        def __class_getitem__(cls, kind: type[Readable]) -> Any:
            return Annotated[str, WrapValidator(_parser_of(kind)), PlainSerializer(str, return_type=str)]


def _parser_of(kind: type[Readable]) -> Any:
    def parsed(given: Any, as_text: ValidatorFunctionWrapHandler) -> Readable:
        return given if isinstance(given, kind) else kind.parse(as_text(given))

    return parsed


NoneAsText = BeforeValidator(lambda value: _NONE if value is None else value)
"""For an ``AsText`` setting of which ``none`` is one of the values: flags and files read that word as no value."""


class NetworkSettings(CommandSettings):
    """A command that speaks over a network."""

    trusted_network: bool = Field(
        False,
        description="nobody else is on the network: do not warn that amqp:// is not encrypted, or that page or"
        " metrics are open to other machines",
    )


@dataclass(frozen=True, slots=True)
class HostNames:
    """Names of machines, in lower case; ``*`` is any name."""

    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "HostNames":
        """Names with commas between. Anything else is a ValueError."""
        names = tuple(name.strip().lower() for name in text.split(",")) if text.strip() else ()
        wrong = [name for name in names if not re.fullmatch(r"\*|[a-z0-9._-]+", name)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no host's name; expected names with commas between, without ports")
        return cls(names)

    def __str__(self) -> str:
        return ",".join(self.names)


class ServedSettings(NetworkSettings):
    """A command that answers over HTTP."""

    token: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        None,
        description="password of the page and the metrics: ?token=… once in a browser, elsewhere the header"
        " Authorization: Bearer …; at least 16 characters; none: anybody who reaches the port is answered",
    )
    allowed_hosts: AsText[HostNames] = Field(
        HostNames(),
        description="further host names under which the page and the metrics are served, separated by commas; *: any;"
        " localhost, the machine's own name and IP addresses always are",
    )


class MetricsSettings(ServedSettings):
    """A command that runs for days, and is watched."""

    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None,
        description="port that serves metrics to Prometheus, under /metrics, and probes, under /healthz and /readyz;"
        " none: nothing is served",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        description="address of that port; 0.0.0.0: all of this machine's, so set a --token, too",
    )
    hung_after_s: float = Field(
        1800.0,
        gt=0,
        description="seconds without a sign of the service's own thread after which /healthz says that it hangs: more"
        " than a task's longest batch, evaluation, or training that never asks plan.cancelled()",
    )


def without_password(word: str) -> str:
    """An argument of a command as others may see it: PASSWORD in place of one in a URL, and of a token."""
    return re.sub(r"(//[^/@\s:]*):\S*@", r"\1:PASSWORD@", re.sub(r"^(--token=)\S+", r"\1PASSWORD", word))


def settings_of(settings: type[S], values: Mapping[str, Any]) -> S:
    """Settings of these values, checked, and of defaults: neither flags nor environment nor file are asked.

    All problems are in one SettingsError.
    """
    try:
        read: S = _unsourced(settings)(**values)
    except ValidationError as error:
        raise SettingsError(problems_in(error)) from error
    return read


@cache  # to make a model takes ten times as long as to fill one, and a run with a schedule fills one a round
def _unsourced(settings: type[S]) -> type[S]:
    """The settings, read from nowhere else than what they are made of."""

    class Given(settings):  # type: ignore[valid-type,misc]
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **others: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings,)

    return Given


def split_arguments(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """A command's arguments (None: the process's own), and those after ``--``, which are a script's."""
    own = list(sys.argv[1:] if argv is None else argv)
    if "--" not in own:
        return own, []
    at = own.index("--")
    return own[:at], own[at + 1 :]


def check_has_script(script: Path | None, arguments: Sequence[str]) -> None:
    """A SettingsError if there are arguments of a script, and no script."""
    if arguments and script is None:
        raise SettingsError(f"arguments after -- are a script's, and there is no --script: {' '.join(arguments)}")


def read_settings(settings: type[S], argv: Sequence[str] | None, *, prog: str, description: str, examples: str) -> S:
    """The settings of one command, from flags, environment and the file that ``--config`` names.

    All problems are in one SettingsError. ``--help`` and unknown flags end the process, as argparse does.
    """
    page = help_page(settings, prog=prog, description=description, examples=examples)
    parser = _Parser(page, prog=prog, flags=["--config", "--help", *map(flag_of, settings.model_fields)])
    parser.add_argument("--config")
    words = _words(settings, sys.argv[1:] if argv is None else argv)
    flags: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        settings, root_parser=parser, cli_parse_args=words
    )
    known, _ = _config_parser().parse_known_args(words)
    try:
        read = _sourced(settings, flags, config=known.config, own=prog)()
    except ValidationError as error:
        words_of_line = {name for name, field in settings.model_fields.items() if is_word(field)}
        raise SettingsError(explained(error, prog, words=words_of_line)) from error
    _warn_of_passwords(read, flags())
    return read


def given_settings(settings: type[S], values: Mapping[str, Any], *, config: str | Path | None = None, prog: str) -> S:
    """The settings of the command ``prog`` in a program: its values, then environment, file and defaults.

    All problems are in one SettingsError.
    """
    given = InitSettingsSource(settings, dict(values))
    try:
        return _sourced(settings, given, config=config, own=prog)()
    except ValidationError as error:
        raise SettingsError(explained(error, prog)) from error


def _sourced(settings: type[S], first: PydanticBaseSettingsSource, *, config: str | Path | None, own: str) -> type[S]:
    """The settings, read from ``first``, then from the environment, then from the file."""
    content = _read_yaml(settings, str(config), own.removeprefix("fl-")) if config else None

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
            from_file = [] if content is None else [InitSettingsSource(settings, content)]
            return (first, env_settings, *from_file)

    return Sourced


def _words(settings: type[BaseSettings], argv: Sequence[str]) -> list[str]:
    """The command line, with the flags of which there may be several, such as ``--task-arg``, each put into one."""
    names = [name for name, field in settings.model_fields.items() if isinstance(field.default, Arguments)]
    try:
        return gathered(argv, {flag_of(name): f"--{name.replace('_', '-')}" for name in names})
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _warn_of_passwords(read: BaseSettings, flags: Mapping[str, Any]) -> None:
    """Whoever uses this machine can list the arguments of all its processes."""
    seen = [
        name for name, given in flags.items() if isinstance(getattr(read, name, None), SecretStr) and _is_secret(given)
    ]
    if seen and isinstance(read, CommandSettings):
        configure_logging(read.log_level, log_format=read.log_format)  # the command does it anew, with its terminal
    for name in sorted(seen):
        log.warning(
            "--%s holds a password, which every user of this machine can see (`ps`); set %s%s in its place",
            name.replace("_", "-"),
            ENV_PREFIX,
            name.upper(),
        )


def _is_secret(given: str) -> bool:
    """RabbitMQ's own default password is none, and works on its own machine alone; nor is a file's name one."""
    if "://" not in given:
        return not Path(given).is_file()
    return "//guest:guest@" not in given and without_password(given) != given


def environment_of(settings: BaseSettings, names: Iterable[str]) -> dict[str, str]:
    """These of the settings, as the environment in which ``read_settings`` reads the same values, secrets too."""
    names = set(names)
    plain = settings.model_dump(mode="json", include=names)
    secrets = {name: value for name in names if isinstance(value := getattr(settings, name), SecretStr)}
    plain |= {name: value.get_secret_value() for name, value in secrets.items()}
    return {f"{ENV_PREFIX}{name.upper()}": _as_variable(value) for name, value in plain.items()}


def _as_variable(value: object) -> str:
    if value is None:
        return _NONE
    return value if isinstance(value, str) else json.dumps(value)


_UNKNOWN = "unrecognized arguments"
"""How argparse begins what it says of flags that it does not know."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong without repeating a password that was part of it. Its help is a page of our own.

    Of an unknown flag it also says which one of ``flags`` may have been meant.
    """

    def __init__(self, page: str, *, prog: str, flags: Collection[str]) -> None:
        super().__init__(prog=prog, allow_abbrev=False)
        self._page, self._flags = page, flags

    def format_help(self) -> str:
        return self._page

    def format_usage(self) -> str:
        return self._page.partition("\n\n")[0] + "\n"

    def error(self, message: str) -> NoReturn:
        about, _, words = message.partition(": ")
        unknown = [word.partition("=")[0] for word in words.split() if word.startswith("--")]
        hint = meant(unknown, self._flags) if about == _UNKNOWN else ""
        super().error(without_password(message) + hint)


def _config_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser


def _read_yaml(settings: type[S], path: str, own: str) -> dict[str, object]:
    """What the file says, with its section ``own`` in place of what it says for several commands."""
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
    sections = {name: content.pop(name) for name in SECTIONS if isinstance(content.get(name), dict)}
    content |= sections.get(own, {})
    content = {str(key).replace("-", "_"): None if value == _NONE else value for key, value in content.items()}
    read_past = settings.read_past if issubclass(settings, CommandSettings) else frozenset()
    content = {name: value for name, value in content.items() if name not in read_past}
    unknown = sorted(set(content) - set(settings.model_fields))
    if unknown:
        raise SettingsError(
            f"--config {path}: unknown setting {', '.join(unknown)}{meant(unknown, settings.model_fields)}"
            f" (fl-{own} --help names all)"
        )
    return content


def explained(error: ValidationError, prog: str, *, words: Collection[str] = ()) -> str:
    """All that is wrong with the settings of a command, on one line, without passwords.

    ``words`` are the settings that are no flags, but have a place in the line.
    """
    return f"{problems_in(error, words=words)}. See {prog} --help."


def problems_in(error: ValidationError, *, words: Collection[str] = ()) -> str:
    """The same without a hint at the command."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        given = "" if name in ("broker", "token", "password") or not name else f" (given: {problem['input']!r})"
        flag = f"{name.upper() if name in words else flag_of(name)}: " if name else ""
        problems.append(f"{flag}{problem['msg'].removeprefix('Value error, ')}{given}")
    return "; ".join(problems)
