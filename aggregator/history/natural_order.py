"""Names in the order in which people count them: worker-2 before worker-10."""

import re

_DIGITS = re.compile(r"(\d+)")


def natural_order(name: str | None) -> tuple[tuple[int, int, str], ...]:
    """A key to sort by; None, for an unknown name, comes last."""
    if name is None:
        return ((2, 0, ""),)
    parts = [part for part in _DIGITS.split(name) if part]
    return tuple((0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part) for part in parts)
