"""What comes from the wire or from a task, as it is shown: text on one line and without control codes, and metrics."""

import math
from collections.abc import Mapping, Sequence


def printable(text: str, *, at_most: int | None = None) -> str:
    """The text with what cannot be printed (control characters, changes of direction) as ``\\x1b`` and the like.

    Text longer than ``at_most`` characters is cut, and ends with an ellipsis.
    """
    if at_most is not None and len(text) > at_most:
        text = text[: at_most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def some_of(texts: Sequence[str], most: int) -> str:
    """The first ``most`` of them, with commas between, and how many more there are."""
    rest = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + rest


def metric_text(value: float) -> str:
    """A metric with four decimals; where these would be none, or far too many digits, with four digits."""
    has_four_decimals = not math.isfinite(value) or value == 0 or 1e-3 <= abs(value) < 1e5
    return f"{value:.4f}" if has_four_decimals else f"{value:.4g}"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """All metrics on one line, by name."""
    return "  ".join(f"{name} {metric_text(value)}" for name, value in metrics.items())
