"""The keepers of a simulation over RabbitMQ: threads of the aggregator's process, each with a connection of its own."""

import contextlib
import threading
from collections.abc import Callable

from aggregator import AggregatorSettings
from broker import Transport
from broker.wire import Topology
from console import BrokerUnreachable, FedmqError
from keeper import Keeper, Ledger
from simulation.secrecy.keepers import config_of_keeper, ledger_of_keeper
from simulation.secrecy.members import Secrecy


class KeeperThreads:
    """The run's keepers, inside a ``with``; none if it has none. A failure is reported at once, and by ``check``.

    ``connected`` makes a connection for these names.
    """

    def __init__(
        self,
        secrecy: Secrecy | None,
        settings: AggregatorSettings,
        *,
        connected: Callable[[Topology], Transport],
        on_failure: Callable[[], None],
    ) -> None:
        self._secrecy, self._settings = secrecy, settings
        self._connected, self._on_failure = connected, on_failure
        self._keepers: list[Keeper] = []
        self._threads: list[threading.Thread] = []
        self._failures: list[str] = []

    def __enter__(self) -> "KeeperThreads":
        secrecy = self._secrecy
        for name in () if secrecy is None else secrecy.keepers:
            is_there = threading.Event()
            arguments = (name, secrecy, is_there)
            thread = threading.Thread(target=self._live, args=arguments, name=f"keeper {name}", daemon=True)
            self._threads.append(thread)
            thread.start()
            is_there.wait()
        return self

    def __exit__(self, *error: object) -> None:
        for keeper in self._keepers:
            keeper.stop()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Raises a FedmqError if a keeper failed, with its reason."""
        if self._failures:
            raise FedmqError("; ".join(self._failures))

    def _live(self, name: str, secrecy: Secrecy, is_there: threading.Event) -> None:
        """All of one keeper's life: its ledger is for one thread."""
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(is_there.set)  # whatever happens
                ledger: Ledger = stack.enter_context(contextlib.closing(ledger_of_keeper(name, self._settings)))
                transport = self._connected(Topology(self._settings.queue, keeper=name))
                keeper = Keeper(config_of_keeper(name, secrecy, self._settings), ledger, transport)
                stack.enter_context(contextlib.closing(keeper))
                self._keepers.append(keeper)
                is_there.set()
                self._serve(keeper)
        except FedmqError as error:
            self._failures.append(f"keeper {name}: {error}")
            self._on_failure()

    def _serve(self, keeper: Keeper) -> None:
        try:
            keeper.start()
        except BrokerUnreachable:
            if not keeper.is_stopping:
                raise
            return
        keeper.run()
