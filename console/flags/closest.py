"""What somebody may have meant who typed a name that nobody knows."""

import difflib
from collections.abc import Iterable

_ALIKE = 0.75


def meant(names: Iterable[str], known: Iterable[str]) -> str:
    """``; did you mean A, B?`` for those of the names that are like a known one; empty if none is."""
    choices = list(known)
    found = [match for name in names for match in difflib.get_close_matches(name, choices, n=1, cutoff=_ALIKE)]
    return f"; did you mean {', '.join(dict.fromkeys(found))}?" if found else ""
