"""Somebody who publishes other people's updates again: at once, later, twice, out of order."""

import heapq
import itertools
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import pika
from pika.exceptions import AMQPError

from broker.wire.topology import Topology

_ECHO_HEADER = "echo"


class Echo:
    """Hears all updates of one federation and repeats some of them, inside a ``with``.

    ``urls`` are those of the broker's nodes, which it asks in turn.
    """

    def __init__(self, urls: Sequence[str], queue: str, *, seed: int, share: float, longest_delay_s: float) -> None:
        self.num_repeated = 0
        self._urls, self._topology = itertools.cycle(urls), Topology(queue)
        self._random = random.Random(f"echo {seed}")
        self._share, self._longest_delay_s = share, longest_delay_s
        self._due: list[tuple[float, int, str, pika.BasicProperties, bytes]] = []
        self._order = count()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)

    def __enter__(self) -> "Echo":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(AMQPError, OSError):  # no broker, or no queue yet: later, perhaps
                self._listen()
            self._stopping.wait(0.3)

    def _listen(self) -> None:
        with pika.BlockingConnection(pika.URLParameters(next(self._urls))) as connection:
            channel = connection.channel()
            own = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(own, self._topology.inbound, routing_key="update.*")
            for method, properties, body in channel.consume(own, auto_ack=True, inactivity_timeout=0.05):
                if method is not None and _ECHO_HEADER not in (properties.headers or {}):
                    self._plan(method.routing_key, body)
                while self._due and self._due[0][0] <= time.monotonic():
                    _, _, key, properties, body = heapq.heappop(self._due)
                    channel.basic_publish(self._topology.inbound, key, body, properties)
                    self.num_repeated += 1
                if self._stopping.is_set():
                    return

    def _plan(self, key: str, body: bytes) -> None:
        properties: Any = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent, headers={_ECHO_HEADER: 1})
        while self._random.random() < self._share:
            due_at = time.monotonic() + self._random.choice((0.0, self._random.uniform(0.0, self._longest_delay_s)))
            heapq.heappush(self._due, (due_at, next(self._order), key, properties, body))
