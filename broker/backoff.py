"""How long to wait before something is tried again."""

import random
from collections.abc import Callable

AT_RANDOM = random.SystemRandom()
"""Not the global generator, which is the task's, and seeded."""


def jittered_s(num_failures: int, *, longest_s: float, first_s: float = 0.5) -> float:
    """Exponential with full jitter, so that a fleet does not come back all at once.

    After the first failure, ``first_s`` at most.
    """
    return AT_RANDOM.uniform(0.0, min(first_s * 2 ** min(num_failures - 1, 10), longest_s))


class Backoff:
    """Waits between attempts that fail soon, and none after one that went well for ``lasts_s``.

    The first failure of a row is followed by no wait: what failed may be where it was tried, and not what was tried.
    """

    def __init__(self, clock: Callable[[], float], *, lasts_s: float = 60.0, longest_s: float = 10.0) -> None:
        self._clock, self._lasts_s, self._longest_s = clock, lasts_s, longest_s
        self._num_failures = 0
        self._begun_at = clock()

    def begin(self) -> None:
        """An attempt begins now."""
        self._begun_at = self._clock()

    def failed_s(self) -> float:
        """The attempt has failed: how long to wait, in seconds."""
        if self._clock() - self._begun_at >= self._lasts_s:
            self._num_failures = 0
        self._num_failures += 1
        return jittered_s(self._num_failures - 1, longest_s=self._longest_s) if self._num_failures > 1 else 0.0
