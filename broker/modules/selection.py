"""Which tensors of a model are shared, and so travel; all others stay where they are. Each model head has the patterns.

Patterns are shell patterns over tensor names: ``body.*``, ``*lora*``. A tensor is shared if it matches one of them,
and none that begins with ``!``. With only ``!`` patterns, all others are shared: ``!head.*`` is all but the head.
``trainable`` stands for the parameters that are trained (requires_grad), which leaves out all buffers.
"""

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

ALL = ("*",)
_TRAINABLE = "trainable"
_NOT = "!"


def selected(names: Iterable[str], patterns: Sequence[str], *, trained: Collection[str]) -> set[str]:
    """Those of the ``names`` that the patterns select; ``trained`` are what ``trainable`` stands for."""
    names = set(names)
    taken = [matched(pattern, names, trained) for pattern in patterns if not pattern.startswith(_NOT)]
    left = [matched(pattern, names, trained) for pattern in patterns if pattern.startswith(_NOT)]
    return (set().union(*taken) if taken else names) - set().union(*left)


def matched(pattern: str, names: Iterable[str], trained: Collection[str]) -> set[str]:
    """Those of the ``names`` that one pattern means, with or without its ``!``."""
    wanted = pattern.removeprefix(_NOT)
    if wanted == _TRAINABLE:
        return set(names) & set(trained)
    return {name for name in names if fnmatchcase(name, wanted)}
