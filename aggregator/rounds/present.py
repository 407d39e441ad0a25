"""Who is there: what each worker said last, until it has been silent for too long."""

import heapq
import math
from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Present(Mapping[str, T]):
    """What was heard last of each worker that is there, the longest silent one first.

    How long a worker may be silent is its own affair, so the next to be gone need not be the first. A heap knows who
    it is. A worker that speaks again leaves its entry there as it is: only when the entry comes up is it put off.
    """

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, T]] = {}
        """Worker -> until when it counts as there, and what was heard."""
        self._entries: list[tuple[float, str]] = []
        self._entry_at: dict[str, float] = {}
        """Worker -> its earliest entry in the heap."""

    def __getitem__(self, worker: str) -> T:
        return self._heard[worker][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._heard)

    def __len__(self) -> int:
        return len(self._heard)

    def copied(self) -> dict[str, T]:
        return {worker: what for worker, (_, what) in self._heard.items()}

    def heard(self, worker: str, what: T, *, until: float) -> None:
        """It was heard of now; it is gone after ``until`` (infinity: never) if it is not heard of again."""
        self._heard.pop(worker, None)
        self._heard[worker] = (until, what)
        self._enter(worker, until)

    def leave(self, worker: str) -> None:
        self._heard.pop(worker, None)

    def forget_silent(self, *, now: float) -> None:
        """Leaves out those that are gone by now."""
        while (at := self.next_at()) is not None and at < now:
            del self._heard[self._drop_entry()]

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
