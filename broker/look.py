"""What an onlooker finds on the broker at a moment: the aggregator's last word, and what waits on the queues."""

import time
from dataclasses import dataclass

from broker.codec import decode
from broker.errors import BrokerError, MalformedMessage, QueueMissing
from broker.messages import Status
from broker.topology import Topology
from broker.transport import Transport

_QUIET_S = 30.0
"""A running aggregator says something every ten seconds."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at a moment (Unix time)."""

    at: float
    status: Status | None
    num_waiting: dict[str, int]
    """Messages by queue: results, those of shards, dead letters."""
    dead: str

    @property
    def is_quiet(self) -> bool:
        """Whether an aggregator that should be running says nothing any more."""
        status = self.status
        return status is not None and status.state == "running" and self.at - status.sent_at > _QUIET_S

    @property
    def is_over(self) -> bool:
        return self.status is not None and self.status.state == "finished"


def take_look(transport: Transport, topology: Topology) -> Look:
    """What the broker has now. A QueueMissing that says so if no aggregator of this version was ever here."""
    try:
        body = transport.read_status()
    except QueueMissing as error:
        raise QueueMissing(f"{error}; it is made by an aggregator of fedmq 0.2 or newer") from error
    status = None
    if body is not None:
        try:
            status, _ = decode(body, Status)
        except MalformedMessage as error:
            raise BrokerError(f"what lies in {topology.status} is not an aggregator's: {error}") from error
    shards = [topology.updates_of(shard) for shard in range(status.num_shards if status else 0)]
    return Look(time.time(), status, transport.num_messages([topology.updates, *shards, topology.dead]), topology.dead)
