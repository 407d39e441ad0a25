"""The order in which a command takes its arguments: words and flags as people mix them."""

import itertools
from collections.abc import Iterable

from console import CommandSettings


def words_last(settings: type[CommandSettings], argv: Iterable[str]) -> list[str]:
    """The same arguments, flags first: argparse misses the ID in `replay --queue updates ID`."""
    switches = {"-h", "--help"}
    switches |= {
        f"--{field.alias or name}" for name, field in settings.model_fields.items() if field.annotation is bool
    }
    flags: list[str] = []
    words: list[str] = []
    left = iter(argv)
    for word in left:
        if not word.startswith("-"):
            words.append(word)
            continue
        flags.append(word)
        if word not in switches and "=" not in word and not word.startswith("--no-"):
            flags.extend(itertools.islice(left, 1))
    return [*flags, *words]
