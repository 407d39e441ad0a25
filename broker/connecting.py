"""The one place where settings become a Transport: its users do not know which broker is behind it."""

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
    """One process's connection to the broker in ``settings``; ``role`` names it there, for operators.

    Returns at once. The first method that needs the broker waits for the connection, or raises why there is none.
    ``topology`` has the names to use and declare, by default those of ``settings.queue`` without shards.
    ``on_link`` is called when a connection is lost or restored, from one of the transport's own threads.
    """
    return RabbitMQ(settings, role=role, topology=topology, on_link=on_link)
