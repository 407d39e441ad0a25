"""Every stream, queue and exchange, with all its arguments. All names derive from ``--queue``.

<queue>.models      stream      model heads; written by the aggregator, read by any number of workers
<queue>             quorum      updates, behind the topic exchange <queue>.in, key update.<worker>
<queue>.blob.<id>   stream      one large body, in parts; deleted when no one can need it
<queue>.dead        quorum      updates set aside, with the reason; behind the fanout exchange <queue>.dlx
<queue>.presence    classic     short-lived signs of life, behind the topic exchange <queue>.in too
<queue>.leader      exclusive   empty; whose connection holds it is the one aggregator, the others stand by
"""

from dataclasses import dataclass
from typing import Any

Arguments = dict[str, Any]

MIB = 2**20

MODELS = {
    "x-queue-type": "stream",
    "x-stream-max-segment-size-bytes": 32 * MIB,
    "x-max-length-bytes": 128 * MIB,
}
UPDATES = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": 1000,  # a positive number: -1 drops messages before RabbitMQ 4
    "x-consumer-timeout": 7_200_000,
    "x-overflow": "reject-publish",
    "x-dead-letter-strategy": "at-least-once",
}
DEAD = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1_000_000,  # whoever looks gives the messages back, and each return counts
}
PRESENCE = {"x-max-length": 10_000, "x-overflow": "drop-head", "x-message-ttl": 60_000}
BLOB = {"x-queue-type": "stream", "x-max-age": "7D"}


@dataclass(frozen=True, slots=True)
class Topology:
    """The names of one federation."""

    queue: str

    @property
    def models(self) -> str:
        return f"{self.queue}.models"

    @property
    def updates(self) -> str:
        return self.queue

    @property
    def inbound(self) -> str:
        return f"{self.queue}.in"

    @property
    def dead(self) -> str:
        return f"{self.queue}.dead"

    @property
    def dead_letters(self) -> str:
        return f"{self.queue}.dlx"

    @property
    def presence(self) -> str:
        return f"{self.queue}.presence"

    @property
    def leader(self) -> str:
        return f"{self.queue}.leader"

    def model_blob(self, run_id: str, round_number: int) -> str:
        """The blob of the model that round ``round_number`` trains from."""
        return f"{self.queue}.blob.model.{run_id}.{round_number}"

    def update_blob(self, worker: str, run_id: str, round_number: int) -> str:
        """The blob of a worker's update for a round: the same after a restart, so that it replaces itself."""
        return f"{self.queue}.blob.update.{worker}.{run_id}.{round_number}"

    def exchanges(self) -> dict[str, str]:
        """Exchange name -> type."""
        return {self.inbound: "topic", self.dead_letters: "fanout"}

    def queues(self) -> dict[str, Arguments]:
        """Queue name -> its arguments; all are durable."""
        return {
            self.models: MODELS,
            self.updates: UPDATES | {"x-dead-letter-exchange": self.dead_letters},
            self.dead: DEAD,
            self.presence: PRESENCE,
        }

    def bindings(self) -> tuple[tuple[str, str, str], ...]:
        """(exchange, queue, routing key)."""
        return (
            (self.inbound, self.updates, "update.*"),
            (self.inbound, self.presence, "presence.*"),
            (self.dead_letters, self.dead, ""),
        )


def update_key(worker: str) -> str:
    """The routing key of this worker's updates."""
    return f"update.{worker}"


def presence_key(worker: str) -> str:
    """The routing key of this worker's signs of life."""
    return f"presence.{worker}"
