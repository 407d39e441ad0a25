"""Setting updates aside without waiting: many travel at a time, and each is acked once the dead letters hold it."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from broker.rabbitmq.links import Link
from broker.rabbitmq.properties import REASON_HEADER, SENDER_HEADER, SET_ASIDE_KEY, durable
from broker.transport import Delivery
from console import FedmqError, QueueMissing

log = logging.getLogger(__name__)

_AT_ONCE = 64
_MAX_REASON = 1000
_PRECONDITION_FAILED = 406
_MOST_ATTEMPTS, _BETWEEN_ATTEMPTS_S = 3, 0.5


class Aside:
    """Updates on their way to the dead letters, by way of this exchange.

    ``on_kept`` gets those that are there, ``on_failed`` why others cannot be; both are called from the link's thread.
    A transaction of the broker publishes them in groups: pika waits for the confirm of each message by itself, but a
    commit waits once for all of its messages.
    """

    def __init__(
        self,
        link: Callable[[], Link],
        exchange: str,
        *,
        on_kept: Callable[[Sequence[Delivery]], None],
        on_failed: Callable[[FedmqError], None],
    ) -> None:
        self._link, self._exchange = link, exchange
        self._on_kept, self._on_failed = on_kept, on_failed
        self._waiting: deque[tuple[Delivery, str]] = deque()
        """(update, reason), oldest first; only the link's thread takes any off."""
        self._prepared: BlockingChannel | None = None
        self._returned = threading.Event()
        self._last: Future[None] | None = None

    def put(self, delivery: Delivery, reason: str) -> None:
        """Sends an update on its way."""
        self._waiting.append((delivery, reason))
        self._last = self._link().submit(self._publish)
        self._last.add_done_callback(self._look)

    def wait(self) -> None:
        """Returns once all are there; raises why they cannot be."""
        if self._last is not None:
            self._link().result_of(self._last)

    def _look(self, result: "Future[None]") -> None:
        error = result.exception()
        if isinstance(error, FedmqError):
            self._on_failed(error)

    def _publish(self, link: Link) -> None:
        """Publishes all that wait; the jobs of those that an earlier job has published find nothing."""
        while self._waiting:
            letters = [self._waiting[index] for index in range(min(len(self._waiting), _AT_ONCE))]
            self._publish_until_taken(link, letters)
            for _ in letters:
                self._waiting.popleft()
            self._on_kept([delivery for delivery, _ in letters])

    def _publish_until_taken(self, link: Link, letters: Sequence[tuple[Delivery, str]]) -> None:
        """Over a new channel after a refusal, as the one before may know only a leader whose node is dead."""
        for num_left in reversed(range(_MOST_ATTEMPTS)):
            try:
                self._publish_together(link, letters)
                break
            except ChannelClosedByBroker as error:
                if error.reply_code != _PRECONDITION_FAILED:
                    raise
                if num_left:
                    link.pause(_BETWEEN_ATTEMPTS_S)
                    continue
                log.warning("the queue of dead letters takes no more: %d refused updates are dropped", len(letters))
        link.wait_for_events(0)  # hands over what was returned
        if self._returned.is_set():
            raise QueueMissing(f"there is no queue behind '{self._exchange}'; somebody deleted it")

    def _publish_together(self, link: Link, letters: Sequence[tuple[Delivery, str]]) -> None:
        channel = link.channel("aside", confirms=False)
        if channel is not self._prepared:
            channel.add_on_return_callback(self._on_return)
            channel.tx_select()
            self._prepared = channel
        for delivery, reason in letters:
            headers = {REASON_HEADER: reason[:_MAX_REASON], SENDER_HEADER: delivery.sender}
            channel.basic_publish(self._exchange, SET_ASIDE_KEY, bytes(delivery.body), durable(headers), mandatory=True)
        channel.tx_commit()

    def _on_return(self, *returned: Any) -> None:
        self._returned.set()
