"""What goes with a message beside its body: its headers, what it holds, and whether it outlives the broker."""

import time
from typing import Any

import pika

REASON_HEADER = "reason"
SENDER_HEADER = "sender"
PART_HEADER = "part"
RETURNS_HEADER = "x-delivery-count"
"""Written by the broker; on a first delivery, what is there is the sender's own word."""

_CONTENT_TYPE = "application/x-fedmq"


def durable(headers: dict[str, Any] | None = None) -> pika.BasicProperties:
    """Of a message that the broker is to have for good."""
    return pika.BasicProperties(
        delivery_mode=pika.DeliveryMode.Persistent,
        content_type=_CONTENT_TYPE,
        headers=headers,
        timestamp=int(time.time()),
    )


def fleeting() -> pika.BasicProperties:
    """Of a message that is of no use after a restart of the broker."""
    return pika.BasicProperties(delivery_mode=pika.DeliveryMode.Transient, content_type=_CONTENT_TYPE)
