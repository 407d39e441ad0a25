"""Watching without being in the way: several watchers of one service, none of which can end it."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

E = TypeVar("E")
P = TypeVar("P")

log = logging.getLogger(__name__)

_STEP_BYTES = 2**20
"""Bytes between two events of a transfer, at least: a part may come in many small pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferring:
    """A body above the inline cap is on its way; ``num_bytes`` have arrived. If it breaks off, no more events come."""

    what: str
    """Such as ``model of round 7``; names in it come off the wire."""
    is_upload: bool
    num_bytes: int
    total_bytes: int
    """Both before zstd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChanged:
    """What is wrong with a connection to the broker, in words; None: nothing any more. Emitted from its own thread."""

    name: str
    problem: str | None


class Progress:
    """Emits the events of one transfer, from its start on, as its bytes come."""

    def __init__(
        self, on_event: Callable[[Transferring], None], *, what: str, is_upload: bool, total_bytes: int
    ) -> None:
        self._on_event, self._what, self._is_upload, self._total_bytes = on_event, what, is_upload, total_bytes
        self._num_bytes = self._num_emitted = 0
        self._emit()

    def add(self, num_bytes: int) -> None:
        """``num_bytes`` more have arrived."""
        self._num_bytes += num_bytes
        if self._num_bytes - self._num_emitted >= _STEP_BYTES or self._num_bytes == self._total_bytes:
            self._emit()

    def _emit(self) -> None:
        self._num_emitted = self._num_bytes
        self._on_event(
            Transferring(
                what=self._what, is_upload=self._is_upload, num_bytes=self._num_bytes, total_bytes=self._total_bytes
            )
        )


def with_progress(
    parts: Iterable[P],
    on_event: Callable[[Transferring], None],
    *,
    what: str,
    is_upload: bool,
    total_bytes: int,
    size_of: Callable[[P], int],
) -> Iterator[P]:
    """The same parts; emits events about those that the caller has finished with."""
    progress = Progress(on_event, what=what, is_upload=is_upload, total_bytes=total_bytes)
    for part in parts:
        size = size_of(part)
        yield part
        del part  # before the next one is made: it is megabytes
        progress.add(size)


def fan_out(*watchers: Callable[[E], None]) -> Callable[[E], None]:
    """Passes every event to each watcher. One that fails gets no more events; the service does not notice."""
    watching = list(watchers)

    def emit(event: E) -> None:
        for watcher in tuple(watching):
            try:
                watcher(event)
            except Exception:
                watching.remove(watcher)
                log.exception("%s failed and gets no more events; the run goes on", watcher)

    return emit
