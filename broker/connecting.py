"""The one place where settings become a Transport: its users do not know which broker is behind it."""

import functools
import logging
from collections.abc import Callable

from broker.addresses import addresses_of, redacted
from broker.rabbitmq import RabbitMQ
from broker.settings import BrokerSettings, is_in_clear, soon
from broker.transport import Transport
from broker.wire import Topology
from console import LinkChanged

log = logging.getLogger(__name__)


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
    _warn_if_in_clear(settings)
    return RabbitMQ(settings, role=role, topology=topology, on_link=on_link)


def look(
    settings: BrokerSettings,
    *,
    role: str,
    on_link: Callable[[LinkChanged], None] = lambda change: None,
    spent_s: float = 0.0,
) -> Transport:
    """The same for a command that looks, says what it found, and ends: it gives up soon, and has one line for why.

    ``spent_s`` are the seconds that it took until now, for PyTorch, say.
    """
    _warn_if_in_clear(settings)
    return RabbitMQ(soon(settings, spent_s=spent_s), role=role, on_link=on_link, is_told=False)


def _warn_if_in_clear(settings: BrokerSettings) -> None:
    in_clear = [redacted(url) for url in addresses_of(settings.broker) if is_in_clear(url)]
    if in_clear and not settings.trusted_network:
        _warn_of_listeners(", ".join(in_clear))


@functools.cache  # once in a process, however often it connects
def _warn_of_listeners(where: str) -> None:
    log.warning(
        "%s: without TLS, others on the network can read password and models; use amqps://, or --trusted-network if"
        " nobody else is on it",
        where,
    )
