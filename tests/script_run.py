"""A real aggregator on the embedded broker, in a thread of its own, for scripts in the test's thread."""

import threading
from contextlib import closing
from pathlib import Path

from aggregator import Aggregator, AggregatorSettings
from aggregator.history import History
from broker import MemoryBroker, MemoryTransport
from broker.wire import Presence, decode
from learning import Task


class Run:
    """An aggregator in a thread of its own."""

    def __init__(self, state: Path) -> None:
        self.broker, self.state = MemoryBroker(), state
        self.signs_of_life: list[str] = []
        self._has_begun = threading.Event()
        self._thread: threading.Thread | None = None
        self._aggregator: Aggregator

    def begins(self, task: Task, *, rounds: int = 3, deadline_s: float = 600.0) -> None:
        settings = AggregatorSettings(
            rounds=rounds,
            quorum="1",
            deadline_s=deadline_s,
            on_short="abandon",
            state=self.state,
            lr=0.5,
        )
        self._thread = threading.Thread(target=self._lead, args=(task, settings), name="aggregator", daemon=True)
        self._thread.start()
        assert self._has_begun.wait(30)

    def _lead(self, task: Task, settings: AggregatorSettings) -> None:
        with closing(Aggregator(settings.config, task, MemoryTransport(self.broker))) as self._aggregator:
            self._aggregator.start()
            self._has_begun.set()
            self._aggregator.run()

    def ends(self) -> None:
        if self._thread is not None:
            self._aggregator.stop()
            self._thread.join(10)

    def history(self) -> list[dict[str, object]]:
        with History(self.state) as history:
            return [dict(row) for row in history.rounds()]

    def transport(self) -> MemoryTransport:
        """A worker's, of which the signs of life are noted."""
        transport = MemoryTransport(self.broker)
        announce = transport.announce

        def noted(body: bytes, *, worker: str) -> None:
            self.signs_of_life.append(decode(body, Presence)[0].state)
            announce(body, worker=worker)

        transport.announce = noted  # type: ignore[method-assign]
        return transport
