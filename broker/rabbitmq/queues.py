"""The root aggregator's ``Topology`` on RabbitMQ: its queues with all their arguments, its exchanges and bindings."""

from typing import Any

from broker.wire import COMMAND_KEY, Topology, keeper_key, release_key

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
COMMANDS = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 100,
    "x-max-length": 1000,
    "x-overflow": "reject-publish",
}
DEAD = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1_000_000,  # fl-dead gives back what it reads, and each return counts
}
SIGNS = {"x-max-length": 10_000, "x-overflow": "drop-head", "x-message-ttl": 60_000}
STATUSES = {
    "x-queue-type": "stream",
    "x-stream-max-segment-size-bytes": MIB,
    "x-max-length-bytes": 4 * MIB,
}
BLOB = {"x-queue-type": "stream", "x-max-age": "7D"}


def exchanges(topology: Topology) -> dict[str, str]:
    """Exchange name -> type; all are durable."""
    return {topology.inbound: "topic", topology.dead_letters: "fanout"}


def queues(topology: Topology) -> dict[str, Arguments]:
    """Queue name -> its arguments; all are durable."""
    updates = UPDATES | {"x-dead-letter-exchange": topology.dead_letters}
    commands = COMMANDS | {"x-dead-letter-exchange": topology.dead_letters}
    return {
        topology.models: MODELS,
        topology.updates: updates,
        topology.dead: DEAD,
        topology.commands: commands,
        topology.statuses: STATUSES,
        **{topology.updates_of(shard): updates for shard in range(topology.num_shards)},
        **{topology.requests_of(keeper): updates for keeper in topology.keepers},
    }


def outdated(topology: Topology) -> tuple[str, ...]:
    """Durable queues of earlier versions, which nobody reads any more."""
    return (f"{topology.queue}.status", f"{topology.queue}.presence")


def bindings(topology: Topology) -> tuple[tuple[str, str, str], ...]:
    """(exchange, queue, routing key)."""
    inbound = topology.inbound
    shards = [(inbound, topology.updates_of(shard), f"update.{shard}.*") for shard in range(topology.num_shards)]
    keepers = [(inbound, topology.requests_of(keeper), keeper_key(keeper)) for keeper in topology.keepers]
    return (
        (inbound, topology.updates, "update.*"),
        (inbound, topology.commands, COMMAND_KEY),
        (topology.dead_letters, topology.dead, ""),
        *([(inbound, topology.updates, "partial.*")] if shards else []),
        *shards,
        *[(inbound, topology.updates, release_key(keeper)) for keeper in topology.keepers],
        *keepers,
    )
