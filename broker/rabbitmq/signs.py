"""Signs of life as the leader receives them: over a connection of their own, whose failure holds up nothing else.

They come through a queue that belongs to that connection alone, so it is on the node that the connection is at, and
gone with either. A durable queue has a home node, without which nobody could receive from it.
"""

import logging
import math
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from broker.rabbitmq.links import Link, Turns
from broker.rabbitmq.properties import key_text
from broker.rabbitmq.queues import SIGNS, outdated
from broker.settings import BrokerSettings
from broker.transport import Delivery, Source
from broker.wire import Topology, presence_key
from console import FedmqError

log = logging.getLogger(__name__)

_MOST_SIGN_BYTES = 2**13
"""More than any sign of life takes."""
_MOST_SENDERS, _MOST_OF_ONE = 10_000, 10
"""Senders whose signs of life wait to be received, and how many of each."""


class Signs:
    """Gives ``put`` each sign of life, within limits; ``taken`` says that one has been looked at."""

    def __init__(self, topology: Topology, put: Callable[[Delivery], None]) -> None:
        self._topology, self._put = topology, put
        self._waiting: Counter[str] = Counter()
        """Sender -> its signs of life that were put and not taken."""
        self._lock = threading.Lock()
        self._link: Link | None = None

    def listen(
        self,
        settings: BrokerSettings,
        name: str,
        *,
        turns: Turns,
        on_failed: Callable[[FedmqError], None],
        on_problem: Callable[[str | None], None],
    ) -> None:
        """Begins to receive; a broker that is away is waited for without end. ``on_failed``: it refuses."""
        self.close()
        self._link = Link(
            settings.model_copy(update={"connect_timeout_s": math.inf}),
            name,
            turns=turns,
            on_open=self._subscribe,
            on_failed=on_failed,
            on_problem=on_problem,
        )

    def close(self) -> None:
        """Receives no more."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def taken(self, sender: str) -> None:
        """One of this sender's waits no more."""
        with self._lock:
            self._waiting[sender] -= 1
            if self._waiting[sender] <= 0:
                del self._waiting[sender]

    def num_waiting(self, sender: str) -> int:
        """How many of this sender's were put and not taken."""
        with self._lock:
            return self._waiting[sender]

    def _subscribe(self, link: Link) -> None:
        channel = link.subscription(Source.PRESENCE)
        queue = self._topology.presence_of(secrets.token_hex(8))  # a lost connection may still hold the last one
        channel.queue_declare(queue, exclusive=True, arguments=SIGNS)
        channel.queue_bind(queue, self._topology.inbound, presence_key("*"))
        channel.basic_consume(queue, self._on_sign, auto_ack=True)
        for name in outdated(self._topology):
            link.post(partial(_delete, name=name), on_error=partial(_stays, name))

    def _on_sign(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        """Drops what is beyond the limits: the broker sends signs of life as fast as they come, read or not."""
        sender = key_text(method.routing_key).removeprefix(presence_key(""))
        if len(body) > _MOST_SIGN_BYTES:
            return
        with self._lock:
            if self._waiting[sender] >= _MOST_OF_ONE or len(self._waiting) >= _MOST_SENDERS:
                return
            self._waiting[sender] += 1
        self._put(Delivery(Source.PRESENCE, body, sender))


def _delete(link: Link, *, name: str) -> None:
    """A queue of an earlier version; its node may be down, and then it stays until the next start."""
    try:
        link.channel("outdated", confirms=False).queue_delete(name)
    except ChannelClosedByBroker as error:
        _stays(name, error)


def _stays(name: str, error: BaseException) -> None:
    log.debug("queue %s of an earlier version stays: %s", name, error)
