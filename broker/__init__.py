"""The way between processes: the Transport and its settings. Only in here are pika and msgpack known.

Below: ``wire`` (bytes, no pika), ``states`` (tensors as bytes), ``rabbitmq`` (pika).
"""

from broker.memory import MemoryBroker, MemoryTransport
from broker.settings import BrokerSettings, BrokerUrl, ServiceSettings, WireSettings, redacted
from broker.transport import BlobUpload, Delivery, Queued, Source, Transport

__all__ = [
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
    "redacted",
]
