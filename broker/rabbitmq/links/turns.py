"""Which node of a cluster is asked next."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableSequence

from broker.backoff import AT_RANDOM


class Turns:
    """The addresses of one broker, or of the nodes of one cluster, in an order of this process's own.

    So a fleet spreads over the nodes. Who fails comes last.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        *,
        shuffle: Callable[[MutableSequence[str]], None] = AT_RANDOM.shuffle,
    ) -> None:
        order = list(addresses)
        shuffle(order)
        self._order = deque(order)

    def __len__(self) -> int:
        return len(self._order)

    def copy(self) -> "Turns":
        """The same order, for another connection of this process: it then meets the faults of one node, not of two."""
        return Turns(self._order, shuffle=lambda order: None)

    @property
    def current(self) -> str:
        return self._order[0]

    def each_once(self) -> Iterator[str]:
        """All of them, beginning with the current one; to ask for the next says that the one before has failed."""
        for _ in range(len(self._order)):
            yield self.current
            self.pass_on()

    def pass_on(self) -> None:
        """The current one has failed."""
        self._order.rotate(-1)
