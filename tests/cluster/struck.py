"""The crash matrix with nodes in place of processes: at a point of a member's code, the node that it is on is killed.

The points are those of crash.points at which a member and the broker meet: something is declared, published, confirmed,
read or acked. Nobody else dies, so everybody has to end well by himself, with the bits of an undisturbed run.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from cluster.trial import FLAGS, ends
from crash.cells import NAMES, NUM_ROUNDS, PACES
from crash.fleet import AGGREGATOR, BLOB, COMMIT_AT_ONCE, Fleet
from crash.points import (
    ACK,
    CRASH_POINTS,
    DECLARE,
    DELETE,
    HEAD,
    LEAD,
    ON_WIRE,
    PART,
    QUEUE,
    READ_PART,
    SEND,
    SIZES,
    SMALL,
    WRITE_BLOB,
    Point,
)
from rabbitmq_cluster import RabbitCluster
from rabbitmq_node import wait_until

OWN, LEADERS = "its own node", "the leaders' node"
_MEETING = (LEAD, DECLARE, QUEUE, HEAD, SEND, ON_WIRE, ACK, DELETE, PART, WRITE_BLOB, READ_PART)
_BEFORE = [point for point in CRASH_POINTS if point.target == LEAD and point.when == "before"]
"""Where nobody is connected yet."""
_SUBSCRIBED = Point(
    "signs of life subscribed to",
    AGGREGATOR,
    "broker.rabbitmq.signs:Signs._subscribe",
    "after",
    tuple((size, 1) for size in SIZES),
)


@dataclass(frozen=True, slots=True)
class NodeCell:
    """At this point of a run with a model of this size, the node of the point's member dies, or the leaders'."""

    point: Point
    size: str
    whose: str

    @property
    def name(self) -> str:
        return f"{self.point.member}: {self.point.name} [{self.size}], {self.whose}"


def cells() -> list[NodeCell]:
    """All of them. The aggregator is at the leaders' node itself, as who declares a queue has its leader made there."""
    points = [*(point for point in CRASH_POINTS if point.target in _MEETING and point not in _BEFORE), _SUBSCRIBED]
    return [
        NodeCell(point, size, whose)
        for point in points
        for size in SIZES
        for whose in ((OWN,) if point.member == AGGREGATOR else (OWN, LEADERS))
        if point.applies(size)
    ]


@dataclass(slots=True)
class Struck:
    """What came of one cell."""

    cell: NodeCell
    sha256: str | None = None
    seconds: float = 0.0
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.cell.name, *self.problems])


def undisturbed(folder: Path, cluster: RabbitCluster, *, queue: str) -> str:
    """The digest of the run in which nothing happens; it is the same for both sizes."""
    with _fleet(folder, cluster, SMALL, queue=queue) as fleet:
        for name in fleet.everybody:
            fleet.start(name)
        statuses = ends(fleet)
        assert set(statuses.values()) == {0}, fleet.logs()
        assert fleet.final_sha256 is not None
        return fleet.final_sha256


def struck(cell: NodeCell, folder: Path, cluster: RabbitCluster, *, queue: str, expected: str) -> Struck:
    """Runs the cell on a whole cluster, of which one node is dead afterwards."""
    outcome, problems = Struck(cell), []
    begun_at = time.monotonic()
    with _fleet(folder, cluster, cell.size, queue=queue) as fleet:
        for name in fleet.everybody:
            fleet.start(name, _trigger(cell, cluster, fleet) if name == cell.point.member else None)
        problems += [f"{name} ended with {status}" for name, status in ends(fleet).items() if status != 0]
        outcome.sha256 = fleet.final_sha256
        if outcome.sha256 != expected:
            problems.append(f"the final model is {outcome.sha256}, and {expected} if nothing disturbs")
        if miscounted := fleet.miscounted():
            problems.append(f"(round, worker): times folded, of those not folded once: {miscounted}")
        if all(node.is_running for node in cluster.nodes):
            problems.append("no node was killed: the point was never reached")
        if problems:
            problems.append(fleet.logs(num_lines=40))
    outcome.seconds, outcome.problems = time.monotonic() - begun_at, tuple(problems)
    return outcome


def _trigger(cell: NodeCell, cluster: RabbitCluster, fleet: Fleet) -> dict[str, object]:
    """What ``armed.arm`` takes; the leaders are at the node where the aggregator is, which is known once it leads."""
    guest = 0
    if cell.whose == LEADERS:
        aggregator = fleet.members[AGGREGATOR]
        assert wait_until(lambda: fleet.num_opened_rounds() > 0 or not aggregator.is_running, timeout_s=60.0)
        guest = aggregator.pid
    nodes = {str(node.port): node.pid for node in cluster.nodes}
    return cell.point.trigger(cell.size) | {"nodes": nodes, "guest": guest}


def _fleet(folder: Path, cluster: RabbitCluster, size: str, *, queue: str) -> Fleet:
    return Fleet(
        folder,
        url=cluster.url,
        queue=queue,
        names=NAMES,
        rounds=NUM_ROUNDS,
        flags=(*FLAGS, *(() if size == SMALL else BLOB)),
        aggregator_flags=COMMIT_AT_ONCE,
        paces=PACES,
    )
