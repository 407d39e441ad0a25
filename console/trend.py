"""A metric over the rounds of a run: its last values as a sparkline, its direction, and the best so far."""

import math
from collections import deque
from typing import Protocol

_BARS = "▁▂▃▄▅▆▇█"
_NO_BAR = "×"
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
        if math.isfinite(value) and (self.best is None or self._direction.is_better(value, self.best[1])):
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
        is_known = math.isfinite(last - before)
        return last - before if is_known and abs(last - before) > _SAME * abs(before) else 0.0

    @property
    def arrow(self) -> str:
        return "↑" if self.change > 0 else "↓" if self.change < 0 else "→"

    @property
    def is_better(self) -> bool | None:
        """Whether the last change was for the better; None if there was none."""
        return None if self.change == 0 else self._direction.is_better(self._values[-1], self._values[-2])

    def sparkline(self, width: int) -> str:
        """The last values as bars from the lowest to the highest of them; ``×`` for one that is no finite number."""
        values = list(self._values)[-width:] if width > 0 else []
        finite = [value for value in values if math.isfinite(value)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
        middle = _BARS[3]
        return "".join(
            _NO_BAR if not math.isfinite(value) else _BARS[round((value - low) * scale)] if scale else middle
            for value in values
        )
