"""The sites of a simulation: worker-0, worker-1 and so on, or those of a file, each with its part of the data.

A file of sites is YAML, a mapping of each site's name to its arguments (or to nothing), or CSV with a header whose
column ``name`` has the names; every other column is an argument, and an empty field is none.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from console import Arguments
from learning import Site

_NAME = r"[A-Za-z0-9_-]{1,64}"
_MOST = 100_000


@dataclass(frozen=True)
class SimulatedSites:
    """Names of sites with what their tasks are given, in the order of their turns."""

    named: Mapping[str, Arguments]
    source: str = ""
    """Where they are from, as text."""

    @classmethod
    def numbered(cls, number: int) -> "SimulatedSites":
        """worker-0 and so on, without arguments."""
        return cls({f"worker-{index}": Arguments() for index in range(number)})

    @classmethod
    def of(cls, given: Mapping[Any, Any], source: str = "") -> "SimulatedSites":
        """Of names with their arguments. What does not make sense is a ValueError."""
        if not 1 <= len(given) <= _MOST:
            raise ValueError(f"it has {len(given)} sites; expected 1 to {_MOST:,}")
        return cls({_checked(name): _arguments(name, values) for name, values in given.items()}, source)

    @classmethod
    def parse(cls, text: str) -> "SimulatedSites":
        """From the path of a file. One that cannot be read, or does not make sense, is a ValueError."""
        path = Path(text).expanduser()
        try:
            rows = dict(_rows_of_csv(path)) if path.suffix.lower() == ".csv" else _mapping_of_yaml(path)
            return cls.of(rows, text)
        except OSError as error:
            raise ValueError(f"{text}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from error

    def __str__(self) -> str:
        return self.source

    def __len__(self) -> int:
        return len(self.named)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.named)

    def site(self, index: int, partition: str, common: Arguments | None = None) -> Site:
        """The site of one worker, given ``common`` and its own arguments, which count more.

        The sites' parts are disjoint, and the same in every process.
        """
        name = self.names[index]
        args = (common or Arguments()) | self.named[name]
        return Site(name=name, partition=partition, index=index, num_sites=len(self), args=args)


def _checked(name: Any) -> str:
    if not re.fullmatch(_NAME, str(name)):
        raise ValueError(f"{name!r} cannot name a site; use letters, digits, - and _, at most 64")
    return str(name)


def _arguments(name: Any, values: Any) -> Arguments:
    if not isinstance(values, Mapping | None):
        raise ValueError(f"site '{name}' has {values!r}; expected its arguments, name: value")
    try:
        return Arguments.of(values or {})
    except ValueError as error:
        raise ValueError(f"site '{name}': {error}") from error


def _mapping_of_yaml(path: Path) -> Mapping[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        names = Counter(_keys(yaml.compose(text, yaml.SafeLoader)))
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ValueError("expected a mapping of each site's name to its arguments (a table's name ends in .csv)")
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise ValueError(f"site '{twice}' is there twice")
    return content


def _keys(node: yaml.Node | None) -> list[Any]:
    """Of a mapping, each as often as it is there; YAML itself lets the last one count."""
    if not isinstance(node, yaml.MappingNode):
        return []
    return [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]


def _rows_of_csv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    seen: set[str] = set()
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        if "name" not in (rows.fieldnames or ()):
            raise ValueError("its first line must name the columns, one of them `name`")
        for row in rows:
            name = row.pop("name") or ""
            if None in row:
                raise ValueError(f"line {rows.line_num} has more fields than the first line")
            if name in seen:
                raise ValueError(f"line {rows.line_num}: site '{name}' is there twice")
            seen.add(name)
            yield name, {column: value for column, value in row.items() if value}
