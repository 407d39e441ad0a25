"""Signs of life that go on while training blocks."""

import random
import threading
from collections.abc import Callable

IDLE_BEAT_S = 10.0
"""The longest that a service waits for an event before it looks up, which is a sign of its own thread's life."""
_SHORTEST_S = 1.0
"""Rounds may last milliseconds; a sign of life for every change of state would cost more than the rounds."""
_JITTER = 0.2
"""Part of the interval by which a beat may come early: those of many processes that began together drift apart."""
_CHANCE = random.SystemRandom()  # the global generator is the task's, and seeded


class Heartbeat:
    """Calls ``beat`` every ``every_s()`` seconds, and when asked to, from a thread of its own, inside a ``with``.

    When asked to, it may take up to ``spread_s()`` seconds. ``chance`` gives a number from 0 to 1 for each wait.
    """

    def __init__(
        self,
        beat: Callable[[], None],
        *,
        every_s: Callable[[], float],
        spread_s: Callable[[], float] = lambda: 0.0,
        chance: Callable[[], float] = _CHANCE.random,
    ) -> None:
        self._beat, self._every_s, self._spread_s, self._chance = beat, every_s, spread_s, chance
        self._is_due = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._is_due.set()
        self._thread.join()

    def soon(self) -> None:
        """Makes it beat soon, or a second after the last beat: many changes make one sign of life."""
        if not self._is_due.is_set():  # or it beats with what has changed by now: it clears this before it looks
            self._is_due.set()

    def _run(self) -> None:
        rest_s = 0.0
        while not self._stopping.is_set():
            every_s = self._every_s()
            if self._is_due.wait(every_s * (1.0 - _JITTER * self._chance()) - rest_s) and (
                spread_s := self._spread_s()
            ):
                self._stopping.wait(spread_s * self._chance())
            self._is_due.clear()
            if not self._stopping.is_set():
                self._beat()
                rest_s = min(_SHORTEST_S, (1.0 - _JITTER) * every_s)
                self._stopping.wait(rest_s)
