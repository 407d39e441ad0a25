"""What goes with a message's body: headers, content type, and whether the message survives a restart of the broker."""

import time
from typing import Any

import pika

REASON_HEADER = "reason"
SENDER_HEADER = "sender"
SET_ASIDE_KEY = "set-aside"
"""The routing key of what an aggregator sets aside; what the broker itself sets aside keeps the key it came with."""
PART_HEADER = "part"
RETURNS_HEADER = "x-delivery-count"
"""Written by the broker; on a first delivery, whatever is there was written by the sender."""

_CONTENT_TYPE = "application/x-fedmq"


def durable(headers: dict[str, Any] | None = None) -> pika.BasicProperties:
    """For a message that the broker must keep over a restart."""
    return pika.BasicProperties(
        delivery_mode=pika.DeliveryMode.Persistent,
        content_type=_CONTENT_TYPE,
        headers=headers,
        timestamp=int(time.time()),
    )


def fleeting() -> pika.BasicProperties:
    """For a message that is of no use after a restart of the broker."""
    return pika.BasicProperties(delivery_mode=pika.DeliveryMode.Transient, content_type=_CONTENT_TYPE)


def key_text(key: str | bytes) -> str:
    """A routing key; pika leaves one that is not UTF-8 as bytes."""
    return key if isinstance(key, str) else key.decode("utf-8", "replace")
