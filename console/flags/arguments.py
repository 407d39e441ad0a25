"""What a task is given by name, as text: ``--task-arg csv=/data/a.csv`` is ``site.args["csv"]``.

A task that asks for a name that was not given raises MissingArgument, which says how to give it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

from console.errors import MissingArgument

MAX_ARGUMENTS = 64
MAX_ARGUMENT = 1024
"""Characters of a value."""
ARGUMENT_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$"


class Arguments(Mapping[str, str]):
    """Names with their texts; cannot be changed. ``flag`` is what gives one, for the error."""

    def __init__(self, values: Mapping[str, str] | None = None, *, flag: str = "--task-arg") -> None:
        self._values = dict(values or {})
        self._flag = flag

    @classmethod
    def of(cls, values: Mapping[Any, Any], *, flag: str = "--task-arg") -> "Arguments":
        """Of what a file has: numbers, true and false become text as they are written in YAML. Else a ValueError."""
        if len(values) > MAX_ARGUMENTS:
            raise ValueError(f"{len(values)} arguments are too many; at most {MAX_ARGUMENTS}")
        return cls({_checked_name(name): _as_text(name, value) for name, value in values.items()}, flag=flag)

    @classmethod
    def parse(cls, text: str) -> "Arguments":
        """From ``name=value,name=value``, or a JSON object of texts. Anything else is a ValueError."""
        if text.lstrip().startswith("{"):
            return cls.of(_json(text))
        return cls.of(dict(_pair(pair) for pair in text.split(",")) if text.strip() else {})

    @classmethod
    def of_pairs(cls, pairs: Sequence[str]) -> "Arguments":
        """Of several ``name=value``, each with any text as value. Anything else, or a name twice, is a ValueError."""
        named: dict[str, str] = {}
        for name, value in map(_pair, pairs):
            if name in named:
                raise ValueError(f"'{name}' is given twice")
            named[name] = value
        return cls.of(named)

    def __getitem__(self, name: str) -> str:
        try:
            return self._values[name]
        except KeyError:
            given = f"given are {', '.join(self)}" if self else "none is given"
            raise MissingArgument(
                f"the task asks for the argument '{name}', and {given}; start with {self._flag} {name}=VALUE"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __or__(self, other: Mapping[str, str]) -> "Arguments":
        """These, with others in addition or in their place."""
        return Arguments({**self._values, **other}, flag=self._flag)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Arguments({self._values})"

    def __str__(self) -> str:
        return json.dumps(self._values) if self else ""


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"expected name=value, not {text!r}")
    return name.strip(), value


def _json(text: str) -> Mapping[Any, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}; expected name=value, or an object of names and texts") from error
    assert isinstance(found, dict), "what begins with a brace is an object"
    return found


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(ARGUMENT_NAME, name):
        raise ValueError(f"{name!r} cannot name an argument; use letters, digits and _.-, the first a letter or _")
    return name


def _as_text(name: Any, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise ValueError(f"the argument '{name}' is {value!r}; expected a text or a number")
    if len(str(value)) > MAX_ARGUMENT:
        raise ValueError(f"the argument '{name}' has {len(str(value))} characters; at most {MAX_ARGUMENT}")
    return str(value)


if TYPE_CHECKING:
    ArgumentsAsText = Arguments
    PlanArgumentsAsText = Arguments
else:

    def _reader(flag: str) -> Any:
        def read(given: Any, as_text: ValidatorFunctionWrapHandler) -> Arguments:
            values = {} if given is None else given if isinstance(given, Mapping) else Arguments.parse(as_text(given))
            return Arguments.of(values, flag=flag)

        return Annotated[str, WrapValidator(read), PlainSerializer(dict, return_type=dict[str, str])]

    ArgumentsAsText = _reader("--task-arg")
    """A setting that is text to pydantic-settings, and a mapping in a file."""
    PlanArgumentsAsText = _reader("--plan-arg")


def gathered(argv: Sequence[str], flags: Mapping[str, str]) -> list[str]:
    """The words of a command line in which a flag that may come several times comes once, with all in one value.

    ``flags``: such a flag and the flag of all, ``--task-arg`` and ``--task-args``. A ValueError names the flag that is
    wrong. Nothing after ``--`` is a flag.
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    words, rest = list(argv[:end]), list(argv[end:])
    found: dict[str, list[str]] = {}
    kept: list[str] = []
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if flag not in flags:
            kept.append(word)
        elif equals or words:
            found.setdefault(flag, []).append(value if equals else words.pop(0))
        else:
            raise ValueError(f"{flag}: expected name=value")
    for flag, pairs in found.items():
        try:
            kept.append(f"{flags[flag]}={json.dumps(dict(Arguments.of_pairs(pairs)))}")
        except ValueError as error:
            raise ValueError(f"{flag}: {error}") from error
    return kept + rest
