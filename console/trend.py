"""A metric over the rounds of a run: its last values as a sparkline, its direction, and the best so far."""

from collections import deque
from typing import Protocol

_BARS = "▁▂▃▄▅▆▇█"
_NUM_KEPT = 64
_SAME = 1e-4
"""Changes below this share of the value do not count."""


class Direction(Protocol):
    """Which way a metric becomes better."""

    def is_better(self, value: float, than: float) -> bool: ...


class Trend:
    """The values of one metric, round by round. It holds the last 64."""

    def __init__(self, name: str, direction: Direction) -> None:
        self.name = name
        self._direction = direction
        self._values: deque[float] = deque(maxlen=_NUM_KEPT)
        self.best: tuple[int, float] | None = None
        """(round, value) of the best so far, the first of equal ones."""

    def add(self, round_number: int, value: float) -> None:
        self._values.append(value)
        if self.best is None or self._direction.is_better(value, self.best[1]):
            self.best = (round_number, value)

    @property
    def last(self) -> float | None:
        return self._values[-1] if self._values else None

    @property
    def change(self) -> float:
        """The last value minus the one before; 0 if they hardly differ."""
        if len(self._values) < 2:
            return 0.0
        before, last = self._values[-2], self._values[-1]
        return 0.0 if abs(last - before) <= _SAME * abs(before) else last - before

    @property
    def arrow(self) -> str:
        return "↑" if self.change > 0 else "↓" if self.change < 0 else "→"

    @property
    def is_better(self) -> bool | None:
        """Whether the last change was for the better; None if there was none."""
        return None if self.change == 0 else self._direction.is_better(self._values[-1], self._values[-2])

    def sparkline(self, width: int) -> str:
        """The last values as bars from the lowest to the highest of them."""
        values = list(self._values)[-width:] if width > 0 else []
        low, high = min(values, default=0.0), max(values, default=0.0)
        if high == low:
            return _BARS[3] * len(values)
        scale = (len(_BARS) - 1) / (high - low)
        return "".join(_BARS[round((value - low) * scale)] for value in values)
