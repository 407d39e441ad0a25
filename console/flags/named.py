"""One of several things by its name, with its parameters: ``krum:f=2,m=6`` is the dataclass Krum with f 2 and m 6.

Settings that choose an algorithm are such texts, in every command and file alike.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def parse_named(text: str, kinds: Mapping[str, type[T]], *, unnamed: Mapping[str, str] | None = None) -> T:
    """The value that a text names, from ``NAME`` or ``NAME:key=value,key=value``; ``kinds`` are dataclasses by name.

    ``unnamed`` has, for the kinds that take one, the parameter that a first value without ``key=`` is: that of
    ``trimmed:0.2`` is ``share``. What is left out has its default. Anything else is a ValueError with what is known.
    """
    name, colon, rest = text.strip().partition(":")
    if name not in kinds:
        raise ValueError(f"there is no {name!r}; known are {', '.join(kinds)}")
    kind, given = kinds[name], {}
    known = [field.name for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    for index, part in enumerate(rest.split(",") if colon else []):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals and index == 0 and unnamed and name in unnamed:
            key, value = unnamed[name], key
        elif not equals:
            raise ValueError(
                f"{name} has key=value after the colon, with commas between, not {part!r}; {_known(known)}"
            )
        if key not in known:
            raise ValueError(f"{name} has no parameter {key!r}; {_known(known)}")
        if key in given:
            raise ValueError(f"{name} has {key!r} twice")
        given[key] = value
    try:
        found: T = _adapter(cast(Any, kind)).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{name}: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from error
    return found


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def text_of_named(value: Any, kinds: Mapping[str, type[Any]]) -> str:
    """What ``parse_named`` makes this value of: its name, and the parameters that are not their defaults."""
    name = next(name for name, kind in kinds.items() if type(value) is kind)
    changed = [
        f"{field.name}={_text(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if field.init and getattr(value, field.name) != field.default
    ]
    return name + (":" + ",".join(changed) if changed else "")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _known(names: list[str]) -> str:
    return f"it has {', '.join(names)}" if names else "it has no parameters"
