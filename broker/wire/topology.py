"""The names of all streams, queues and exchanges, which derive from ``--queue``, and the routing keys that lead there.

What they are on RabbitMQ, with all arguments, is in ``broker/rabbitmq/queues.py``.

<queue>.models      stream      model heads; written by the aggregator, read by any number of workers
<queue>             quorum      updates, behind the topic exchange <queue>.in, key update.<worker>
<queue>.blob.<id>   stream      one large body, in parts, behind the topic exchange <queue>.in, key blob.<id>; deleted
                                once no one can need it; may end in .1 … .9
<queue>.dead        quorum      updates set aside, with the reason; behind the fanout exchange <queue>.dlx
<queue>.presence.<random>
                    exclusive   short-lived signs of life, behind the topic exchange <queue>.in too; who leads has it
<queue>.statuses    stream      what the aggregator says of itself; only the newest message counts
<queue>.commands    quorum      what people ask of the run, behind <queue>.in, key command.run; read by who leads
<queue>.leader      exclusive   empty; the aggregator whose connection holds it leads, the others stand by

With N shards, a worker's updates go by way of its shard (the first eight bytes, little-endian, of the SHA-256 of its
name, modulo N), and the root aggregator gets one partial sum for many of them:

<queue>.shard.<i>         quorum     updates, behind <queue>.in, key update.<i>.<worker>; read by a partial aggregator
<queue>.shard.<i>.leader  exclusive  as <queue>.leader, of the one partial aggregator of this shard
<queue>                              also has partial sums, key partial.<i>, and updates that these aggregators pass on

Where updates are masked, each keeper is asked by a queue of its own, and answers on the results queue:

<queue>.keeper.<name>         quorum     requests, behind <queue>.in, key keeper.<name>
<queue>.keeper.<name>.leader  exclusive  as <queue>.leader, of the one process that is this keeper
<queue>                                  also has the keepers' answers, key release.<name>
"""

import hashlib
import re
from dataclasses import dataclass

COMMAND_KEY = "command.run"
"""The routing key of commands, which is no worker's name."""
MAX_NAMES = 10
"""Names that a blob may have. Where a kill left the broker half a stream of one name, the next name is used."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The names of one federation: as the root and the workers see them, or as a partial aggregator does."""

    queue: str
    num_shards: int = 0
    """For the root: how many shards it makes queues for."""
    shard: int | None = None
    """Not None: as seen by the partial aggregator of this shard, whose ``updates`` are those of the shard."""
    keepers: tuple[str, ...] = ()
    """For the root: the keepers that it makes queues for."""
    keeper: str | None = None
    """Not None: as seen by the keeper of this name, whose ``updates`` are what it is asked."""

    @property
    def models(self) -> str:
        return f"{self.queue}.models"

    @property
    def updates(self) -> str:
        if self.keeper is not None:
            return self.requests_of(self.keeper)
        return self.queue if self.shard is None else self.updates_of(self.shard)

    def updates_of(self, shard: int) -> str:
        """The queue that the partial aggregator of this shard reads."""
        return f"{self.queue}.shard.{shard}"

    def requests_of(self, keeper: str) -> str:
        """The queue that the keeper of this name reads."""
        return f"{self.queue}.keeper.{keeper}"

    @property
    def is_of_root(self) -> bool:
        """Whether it is the root's or a worker's, and not that of a partial aggregator or a keeper."""
        return self.shard is None and self.keeper is None

    @property
    def update_queues(self) -> tuple[str, ...]:
        """The queues of updates: the results queue and those of shards and keepers; for one of these, its own."""
        if not self.is_of_root:
            return (self.updates,)
        shards = (self.updates_of(shard) for shard in range(self.num_shards))
        return (self.updates, *shards, *map(self.requests_of, self.keepers))

    @property
    def inbound(self) -> str:
        return f"{self.queue}.in"

    @property
    def dead(self) -> str:
        return f"{self.queue}.dead"

    @property
    def dead_letters(self) -> str:
        return f"{self.queue}.dlx"

    def presence_of(self, connection: str) -> str:
        """The queue of signs of life that this connection alone reads."""
        return f"{self.queue}.presence.{connection}"

    @property
    def statuses(self) -> str:
        return f"{self.queue}.statuses"

    @property
    def commands(self) -> str:
        return f"{self.queue}.commands"

    @property
    def leader(self) -> str:
        return f"{self.updates}.leader"

    def model_blob(self, run_id: str, round_number: int) -> str:
        """The blob of the model that round ``round_number`` trains from."""
        return f"{self.queue}.blob.model.{run_id}.{round_number}"

    def update_blob(self, worker: str, run_id: str, round_number: int) -> str:
        """The blob of a worker's update for a round: the same after a restart, so the new one replaces the old."""
        return f"{self.queue}.blob.update.{worker}.{run_id}.{round_number}"

    def partial_blob(self, shard: int, run_id: str, round_number: int, sequence: int) -> str:
        """The blob of a shard's partial sum for a round; ``sequence`` counts these from 0."""
        return f"{self.queue}.blob.partial.{shard}.{run_id}.{round_number}.{sequence}"

    def release_blob(self, keeper: str, run_id: str, round_number: int) -> str:
        """The blob of the sum of masks that a keeper gives for a round."""
        return f"{self.queue}.blob.release.{keeper}.{run_id}.{round_number}"

    def blob_key(self, name: str) -> str:
        """The routing key of a blob's parts: its name within the federation.

        So a topic permission on ``inbound`` says whose blobs a user may fill.
        """
        return name.removeprefix(f"{self.queue}.")


def names_of(blob: str) -> tuple[str, ...]:
    """The names under which a blob may be stored, in the order in which they are tried."""
    return (blob, *(f"{blob}.{number}" for number in range(1, MAX_NAMES)))


def is_name_of(name: str, blob: str) -> bool:
    """Whether ``name`` is one of those under which this blob may be stored."""
    return name in names_of(blob)


def shard_of(worker: str, num_shards: int) -> int:
    """The shard that all of a worker's updates go to: always the same, so a partial aggregator knows its own workers.

    Not a CRC: its last bits hardly differ between consecutively numbered names.
    """
    return int.from_bytes(hashlib.sha256(worker.encode()).digest()[:8], "little") % num_shards


def update_key(worker: str, num_shards: int = 0) -> str:
    """The routing key of this worker's updates: to the root, or with shards to the partial aggregator of its shard."""
    return f"update.{shard_of(worker, num_shards)}.{worker}" if num_shards else f"update.{worker}"


def partial_key(shard: int) -> str:
    """The routing key of a shard's partial sums."""
    return f"partial.{shard}"


def sender_of(key: str) -> str:
    """The worker whose key this is; for a partial sum, the key itself, which is no worker's name.

    An update may come with any key of its worker's, in RabbitMQ 3.10 by a ``CC`` header: so one worker is one sender.
    """
    kind, _, rest = key.partition(".")
    if kind == "update":
        return re.sub(r"^\d+\.", "", rest)
    if kind == "presence":
        return rest
    blob = re.match(r"blob\.update\.([^.]+)\.", key)
    return blob[1] if blob else key


def shard_in(sender: str) -> int | None:
    """The shard whose partial sums have this sender; None if the sender is a worker."""
    found = re.fullmatch(r"partial\.(\d{1,9})", sender)
    return int(found[1]) if found else None


def presence_key(worker: str) -> str:
    """The routing key of this worker's signs of life."""
    return f"presence.{worker}"


def keeper_key(keeper: str) -> str:
    """The routing key of what this keeper is asked."""
    return f"keeper.{keeper}"


def release_key(keeper: str) -> str:
    """The routing key of this keeper's answers, which is no worker's name."""
    return f"release.{keeper}"


def keeper_in(sender: str) -> str | None:
    """The keeper whose answers have this sender; None if it is none."""
    kind, dot, keeper = sender.partition(".")
    return keeper if kind == "release" and dot else None
