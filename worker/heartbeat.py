"""Signs of life that go on while training blocks."""

import threading
from collections.abc import Callable


class Heartbeat:
    """Calls ``beat`` every ``every_s`` seconds, from a thread of its own, inside a ``with``."""

    def __init__(self, beat: Callable[[], None], *, every_s: float) -> None:
        self._beat, self._every_s = beat, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self._beat()
