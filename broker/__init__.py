"""How processes reach each other: the Transport, its settings, and ``connect``. Only here are pika and msgpack used.

Inside: ``wire`` (bytes, no pika), ``states`` (tensors as bytes), ``rabbitmq`` (pika).
"""

from broker.addresses import BrokerUrl, redacted
from broker.backoff import Backoff
from broker.connecting import connect, look
from broker.corrections import CONTROL, Correction, Ditto, FedDyn, Scaffold, scaffold_weight
from broker.memory import MemoryBroker, MemoryTransport
from broker.patience import Patience
from broker.sent_body import BodySender, SentBody
from broker.settings import OF_SENDERS, BrokerSettings, LinkSettings, ServiceSettings, Shared, WireSettings
from broker.transport import ANSWERS_WITHIN_S, BlobNews, BlobUpload, Delivery, Queued, Source, Transport, beginning_of

__all__ = [
    "ANSWERS_WITHIN_S",
    "CONTROL",
    "OF_SENDERS",
    "Backoff",
    "BlobNews",
    "BlobUpload",
    "BodySender",
    "BrokerSettings",
    "BrokerUrl",
    "Correction",
    "Delivery",
    "Ditto",
    "FedDyn",
    "LinkSettings",
    "MemoryBroker",
    "MemoryTransport",
    "Patience",
    "Queued",
    "Scaffold",
    "SentBody",
    "ServiceSettings",
    "Shared",
    "Source",
    "Transport",
    "WireSettings",
    "beginning_of",
    "connect",
    "look",
    "redacted",
    "scaffold_weight",
]
