"""What each kind of participant may do at the broker, as RabbitMQ's patterns: a stolen password is worth what its owner
may do, and no more.

Only the aggregator's user may publish to ``amq.default``: a routing key there is the name of any queue. The others
publish to ``<queue>.in``, where a topic permission ties the routing key to the name. Without a topic permission for an
exchange, RabbitMQ allows every key, so all roles have one.

Whoever may declare queues or exchanges could have the broker publish past that, by a dead-letter exchange, an alternate
exchange, or a binding from one exchange to another. For each of these RabbitMQ asks for the right to read the queue or
exchange that was declared, and nobody but the aggregator has it: a worker reads models, never its own blobs.

RabbitMQ finds a pattern anywhere in a name, unless it is between ``^`` and ``$``.
"""

import re
from dataclasses import dataclass, replace

from broker.wire import COMMAND_KEY, Topology

_NOTHING = "^$"
_EVERYTHING = ".*"


@dataclass(frozen=True, slots=True)
class Permissions:
    """The patterns of one user in one virtual host."""

    configure: str
    """Names of queues and exchanges that the user may declare and delete."""
    write: str
    """Those that the user may publish to, and bind to an exchange."""
    read: str
    """Those that the user may receive from, and bind a queue to."""
    topic_write: str = _NOTHING
    """Routing keys that the user may publish to ``<queue>.in`` with."""
    topic_read: str = _NOTHING
    """Routing keys that the user may bind a queue to ``<queue>.in`` with."""


def worker(topology: Topology, name: str, *, is_elastic: bool = False) -> Permissions:
    """The worker of this name: sends its updates, fills and deletes its own blobs, reads models.

    With ``is_elastic``, also any worker whose name is this one, a hyphen and something more.
    """
    own = re.escape(name) + ("(-[A-Za-z0-9_-]+)?" if is_elastic else "")
    return _sender(
        topology,
        blobs=rf"blob\.update\.{own}\..*",
        read=r"in|models|blob\.model\..*",
        keys=rf"(update(\.[0-9]+)?|presence)\.{own}",
    )


def partial(topology: Topology, shard: int | None = None) -> Permissions:
    """A partial aggregator, of this shard or (None) of any: reads updates, deletes their blobs, passes updates on."""
    number = "[0-9]+" if shard is None else str(shard)
    blobs = rf"blob\.partial\.{number}\..*"
    own = _sender(
        topology,
        blobs=blobs,
        read=rf"in|models|shard\.{number}|blob\.(model|update)\..*",
        keys=rf"update\.[^.]*|partial\.{number}",
    )
    queue = re.escape(topology.queue)
    return replace(own, configure=rf"^{queue}\.(shard\.{number}\.leader|blob\.update\..*|{blobs})$")


def keeper(topology: Topology, name: str) -> Permissions:
    """The keeper of this name: reads what it is asked on ``<queue>.keeper.<name>``, answers by ``release.<name>``."""
    own = re.escape(name)
    blobs = rf"blob\.release\.{own}\..*"
    asked = _sender(topology, blobs=blobs, read=rf"in|keeper\.{own}", keys=rf"release\.{own}")
    return replace(asked, configure=rf"^{re.escape(topology.queue)}\.(keeper\.{own}\.leader|{blobs})$")


def _sender(topology: Topology, *, blobs: str, read: str, keys: str) -> Permissions:
    """Of one that publishes by these ``keys``, fills ``blobs`` of its own, and may ``read`` others': patterns all."""
    queue = re.escape(topology.queue)
    return Permissions(
        configure=rf"^{queue}\.{blobs}$",
        write=rf"^{queue}\.(in|{blobs})$",
        read=rf"^{queue}\.({read})$",
        topic_write=rf"^({keys}|{blobs})$",
        topic_read=rf"^{blobs}$",
    )


def aggregator(topology: Topology) -> Permissions:
    """The aggregator, and people at `fl-dead`: everything of this federation."""
    own = rf"{re.escape(topology.queue)}(\..*)?"
    return Permissions(
        configure=f"^{own}$",
        write=rf"^(amq\.default|{own})$",
        read=f"^{own}$",
        topic_write=_EVERYTHING,
        topic_read=_EVERYTHING,
    )


def operator(topology: Topology) -> Permissions:
    """`fl-run`: asks things of a running aggregator, and reads what that says of itself."""
    return Permissions(
        configure=_NOTHING,
        write=f"^{re.escape(topology.inbound)}$",
        read=f"^{re.escape(topology.statuses)}$",
        topic_write=f"^{re.escape(COMMAND_KEY)}$",
    )


def onlooker(topology: Topology) -> Permissions:
    """`fl-status` and `fl-dashboard`: reads what the aggregator says of itself, and changes nothing."""
    return Permissions(configure=_NOTHING, write=_NOTHING, read=f"^{re.escape(topology.statuses)}$")
