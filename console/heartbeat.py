"""Signs of life that go on while training blocks."""

import threading
from collections.abc import Callable

IDLE_BEAT_S = 10.0
"""The longest that a service waits for an event before it looks up, which is a sign of its own thread's life."""
_SHORTEST_S = 1.0
"""Rounds may last milliseconds; a sign of life for every change of state would cost more than the rounds."""


class Heartbeat:
    """Calls ``beat`` every ``every_s`` seconds, and when asked to, from a thread of its own, inside a ``with``."""

    def __init__(self, beat: Callable[[], None], *, every_s: float) -> None:
        self._beat, self._every_s = beat, every_s
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
        """Makes it beat at once, or a second after the last beat: many changes make one sign of life."""
        self._is_due.set()

    def _run(self) -> None:
        pause_s = min(_SHORTEST_S, self._every_s)
        wait_s = self._every_s
        while not self._stopping.is_set():
            self._is_due.wait(wait_s)
            self._is_due.clear()
            if not self._stopping.is_set():
                self._beat()
                self._stopping.wait(pause_s)
                wait_s = self._every_s - pause_s
