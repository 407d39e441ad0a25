"""How processes reach each other: the Transport, its settings, and ``connect``. Only here are pika and msgpack used.

Inside: ``wire`` (bytes, no pika), ``states`` (tensors as bytes), ``rabbitmq`` (pika).
"""

from broker.connecting import connect
from broker.memory import MemoryBroker, MemoryTransport
from broker.settings import BrokerSettings, BrokerUrl, ServiceSettings, Shared, WireSettings, redacted
from broker.transport import BlobNews, BlobUpload, Delivery, Queued, Source, Transport, beginning_of

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
    "Shared",
    "Source",
    "Transport",
    "WireSettings",
    "beginning_of",
    "connect",
    "redacted",
]
