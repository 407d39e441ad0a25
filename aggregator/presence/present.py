"""Who is present: what was last heard from each worker, until it has been silent for too long."""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Present(Mapping[str, T]):
    """Worker -> what was last heard from it, for each worker present; the longest silent comes first.

    Each worker sets how long it may be silent, so the first is not necessarily the next to be gone; a heap tells which
    one is. When a worker is heard again, its heap entry stays as it is, and is postponed only when it comes up.
    """

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, T]] = {}
        """Worker -> until when it counts as present, and what was heard."""
        self._entries: list[tuple[float, str]] = []
        self._entry_at: dict[str, float] = {}
        """Worker -> its earliest entry in the heap."""
        self._looks_for: Callable[[str], bool] = lambda worker: False
        self.found: set[str] = set()
        """Those present that ``look_for`` asked for."""

    def __getitem__(self, worker: str) -> T:
        return self._heard[worker][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._heard)

    def __len__(self) -> int:
        return len(self._heard)

    def look_for(self, who: Callable[[str], bool]) -> None:
        """From now on, ``found`` has those of the workers present of whom this is true."""
        self._looks_for = who
        self.found = set(filter(who, self._heard))

    def copied(self) -> dict[str, T]:
        return {worker: what for worker, (_, what) in self._heard.items()}

    def heard(self, worker: str, what: T, *, until: float) -> None:
        """Records what was heard from it now; it is gone after ``until`` (infinity: never) unless heard again."""
        if self._heard.pop(worker, None) is None and self._looks_for(worker):
            self.found.add(worker)
        self._heard[worker] = (until, what)
        self._enter(worker, until)

    def leave(self, worker: str) -> None:
        self._heard.pop(worker, None)
        self.found.discard(worker)

    def move_to(self, other: "Present[T]", worker: str) -> None:
        """Hands a worker over as it is."""
        until, what = self._heard[worker]
        self.leave(worker)
        other.heard(worker, what, until=until)

    def forget_silent(self, *, now: float) -> list[str]:
        """Drops the workers that are gone by now, and returns their names."""
        gone = []
        while (at := self.next_at()) is not None and at < now:
            gone.append(self._drop_entry())
            self.leave(gone[-1])
        return gone

    def next_at(self) -> float | None:
        """When the next one is gone if all stay silent; None: never."""
        while self._entries:
            at, worker = self._entries[0]
            until = self._heard[worker][0] if worker in self._heard else math.inf
            if at == until:
                return at
            self._drop_entry()
            self._enter(worker, until)
        return None

    def _drop_entry(self) -> str:
        """Takes the earliest entry off the heap; returns whose it was."""
        at, worker = heapq.heappop(self._entries)
        if self._entry_at.get(worker) == at:
            del self._entry_at[worker]
        return worker

    def _enter(self, worker: str, until: float) -> None:
        if until < self._entry_at.get(worker, math.inf):
            heapq.heappush(self._entries, (until, worker))
            self._entry_at[worker] = until
