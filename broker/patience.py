"""How long several questions to a broker may take in a row, all of them together."""

import time
from dataclasses import dataclass

_AT_LEAST_S = 1.0
"""Each is asked at all, whatever the others took."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Until a moment of the monotonic clock."""

    until: float

    @classmethod
    def of(cls, seconds: float) -> "Patience":
        """From now on."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """How long the next question may take."""
        return max(_AT_LEAST_S, self.until - time.monotonic())
