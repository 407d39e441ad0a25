"""Looking on without being in the way: several watchers of one service, none of which can end it."""

import logging
from collections.abc import Callable
from typing import TypeVar

E = TypeVar("E")

log = logging.getLogger(__name__)


def fan_out(*watchers: Callable[[E], None]) -> Callable[[E], None]:
    """Tells each watcher of every event. One that fails is told nothing more; the service does not notice."""
    watching = list(watchers)

    def tell(event: E) -> None:
        for watcher in tuple(watching):
            try:
                watcher(event)
            except Exception:
                watching.remove(watcher)
                log.exception("%s failed and is told nothing more; the run goes on", watcher)

    return tell
