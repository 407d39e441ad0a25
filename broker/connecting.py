"""The one place where settings become a Transport: who uses a broker does not know what is behind it."""

from collections.abc import Callable

from broker.rabbitmq import RabbitMQ
from broker.settings import BrokerSettings
from broker.transport import Transport
from broker.wire import Topology
from console import LinkChanged


def connect(
    settings: BrokerSettings,
    *,
    role: str,
    topology: Topology | None = None,
    on_link: Callable[[LinkChanged], None] = lambda change: None,
) -> Transport:
    """One process's way to the broker that the settings name; ``role`` is what operators see of it there.

    Returns at once: the first method that needs the broker waits for the connection, or raises why there is none.
    ``topology`` has the names it uses and declares, by default those of ``settings.queue`` without shards.
    ``on_link`` hears when a connection is lost or mended, from a thread of the transport's own.
    """
    return RabbitMQ(settings, role=role, topology=topology, on_link=on_link)
