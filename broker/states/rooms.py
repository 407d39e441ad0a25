"""Memory for large tensors that is used again: what the system gives anew, it has to clear, page by page."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LARGE_BYTES = 2**20
_REFERENCES_TO_FREE = 2
"""To memory that nobody has a view of: its room's, and that of the call that counts them."""
_KEPT_S = 60.0


@dataclass(slots=True, eq=False)
class _Room:
    memory: NDArray[np.uint8]
    taken_at: float

    @property
    def is_free(self) -> bool:
        return sys.getrefcount(self.memory) == _REFERENCES_TO_FREE


class Rooms:
    """Memory of any sizes. A room is free again once nothing refers to its memory any more, nor to a view of it.

    What was free for a minute goes back to the system when the next room is taken.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rooms: list[_Room] = []
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> memoryview:
        """Writable memory of this size, with any content."""
        if num_bytes < _LARGE_BYTES:
            return memoryview(np.empty(num_bytes, np.uint8))  # type: ignore[arg-type]
        with self._lock:
            room = self._room_of(num_bytes)
            room.taken_at = now = self._clock()
            given = memoryview(room.memory)  # type: ignore[arg-type]
            self._rooms = [each for each in self._rooms if now - each.taken_at < _KEPT_S or not each.is_free]
            return given

    def _room_of(self, num_bytes: int) -> _Room:
        for room in self._rooms:
            if len(room.memory) == num_bytes and room.is_free:
                return room
        self._rooms.append(_Room(np.empty(num_bytes, np.uint8), 0.0))
        return self._rooms[-1]


memory_of = Rooms().take
"""Bytes -> writable memory with any content, the caller's as long as it lives: of the rooms of this process."""
