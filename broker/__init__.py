"""How processes reach each other: the Transport, its settings, and ``connect``. Only here are pika and msgpack used.

Inside: ``wire`` (bytes, no pika), ``states`` (tensors as bytes), ``rabbitmq`` (pika).
"""

from broker.connecting import connect
from broker.memory import MemoryBroker, MemoryTransport
from broker.settings import BrokerSettings, BrokerUrl, ServiceSettings, WireSettings, redacted
from broker.transport import BlobNews, BlobUpload, Delivery, Queued, Source, Transport

__all__ = [
    "BlobNews",
    "BlobUpload",
    "BrokerSettings",
    "BrokerUrl",
    "Delivery",
    "MemoryBroker",
    "MemoryTransport",
    "Queued",
    "ServiceSettings",
    "Source",
    "Transport",
    "WireSettings",
    "connect",
    "redacted",
]
