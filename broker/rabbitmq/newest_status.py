"""The newest message of the status stream, for those who look on."""

import time
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel

from broker.rabbitmq.counts import COUNT_LAGS_S, num_waiting
from broker.rabbitmq.links import Link

_PREFETCH = 100
_FIRST_S = 7.0
"""How long the first message may take, if there is one."""
_REST_OF_CHUNK_S = 0.05
"""Within it, the next message of a chunk of a stream arrives."""


class NewestStatus:
    """The newest message of the status stream, by a consumer that stays.

    To cancel one that a message is on its way to, pika rejects the message, and RabbitMQ 3.10 closes a connection
    that rejects a stream's.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._channel: BlockingChannel | None = None
        """The one that consumes; None before the first read, and when the stream was deleted."""
        self._body: bytes | None = None
        self._num_seen = 0

    def read(self, link: Link) -> bytes | None:
        """Its body; None if there is none."""
        channel = link.channel("status")
        if channel is self._channel:
            link.wait_for_events(0)
        else:
            self._subscribe(link, channel)
        return self._body

    def _subscribe(self, link: Link, channel: BlockingChannel) -> None:
        self._channel, self._body = None, None
        is_counted = num_waiting(link, self._stream) > 0
        channel.basic_qos(prefetch_count=_PREFETCH)
        channel.add_on_cancel_callback(lambda frame: self._forget())
        channel.basic_consume(self._stream, self._on_status, arguments={"x-stream-offset": "last"})
        self._channel = channel
        num_seen = self._num_seen
        deadline = time.monotonic() + (_FIRST_S if is_counted else COUNT_LAGS_S)
        while self._num_seen == num_seen and time.monotonic() < deadline:
            link.wait_for_events(0.5)
        while self._num_seen > num_seen:
            num_seen = self._num_seen
            link.wait_for_events(_REST_OF_CHUNK_S)

    def _on_status(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        self._body = body
        self._num_seen += 1

    def _forget(self) -> None:
        self._channel, self._body = None, None
