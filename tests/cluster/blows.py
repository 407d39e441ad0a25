"""What can happen to the nodes of a cluster while a run goes on over it."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
from crash.fleet import AGGREGATOR, STANDBY, Fleet
from rabbitmq_cluster import RabbitCluster
from rabbitmq_node import RabbitNode, wait_until

Strike = Callable[[RabbitCluster, Fleet], None]
LONGER_THAN_THE_NET_TICK_S = 90.0
WITHOUT_A_MAJORITY_S = 20.0
_CONNECTED_WITHIN_S = 30.0
_ROUND_WITHIN_S = 90.0


def kill_leaders_node(cluster: RabbitCluster, fleet: Fleet) -> None:
    """SIGKILL of the node where the aggregator is: there it leads, and has declared queues and streams."""
    node_of(AGGREGATOR, cluster, fleet).kill()


def kill_leaders_node_with_the_leader(cluster: RabbitCluster, fleet: Fleet) -> None:
    """SIGKILL of the aggregator and of the node where it leads, as when their machine is lost; a standby is there."""
    node = node_of(AGGREGATOR, cluster, fleet)
    fleet.members[AGGREGATOR].kill()
    node.kill()
    fleet.members[AGGREGATOR] = fleet.members.pop(STANDBY)


def kill_workers_node(cluster: RabbitCluster, fleet: Fleet) -> None:
    """SIGKILL of a node where a worker is, if possible without the aggregator."""
    of_aggregator = node_of(AGGREGATOR, cluster, fleet)
    nodes = [node_of(name, cluster, fleet) for name in fleet.names]
    next((node for node in nodes if node is not of_aggregator), nodes[0]).kill()


def kill_each_in_turn(cluster: RabbitCluster, fleet: Fleet) -> None:
    """SIGKILL of one node after the other, each back before the next."""
    for node in cluster.nodes:
        node.kill()
        _let_a_round_pass(fleet)
        cluster.heal()


def restart_each_in_turn(cluster: RabbitCluster, fleet: Fleet) -> None:
    """A rolling restart, as an upgrade does it: each node is stopped in order, and is back before the next."""
    for node in cluster.nodes:
        node.shut_down()
        _let_a_round_pass(fleet)
        cluster.heal()


def pause_leaders_node(cluster: RabbitCluster, fleet: Fleet) -> None:
    """SIGSTOP of the aggregator's node for longer than the net tick, after which the others take it for dead."""
    node = node_of(AGGREGATOR, cluster, fleet)
    cluster.pause(node)
    time.sleep(LONGER_THAN_THE_NET_TICK_S)
    cluster.resume(node)


def isolate_leaders_node(cluster: RabbitCluster, fleet: Fleet) -> None:
    """A partition: the aggregator's node sees no other one, and pauses itself, as it is the minority."""
    node = node_of(AGGREGATOR, cluster, fleet)
    cluster.isolate(node)
    time.sleep(LONGER_THAN_THE_NET_TICK_S)
    cluster.join_again(node)


def kill_a_majority(cluster: RabbitCluster, fleet: Fleet) -> None:
    """SIGKILL of all nodes but one, which then stops by itself, and some time until they are back."""
    for node in cluster.nodes[1:]:
        node.kill()
    time.sleep(WITHOUT_A_MAJORITY_S)
    cluster.heal()


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that happens, and how long it and its consequences at the nodes last."""

    name: str
    strike: Strike
    lasts_s: float
    has_standby: bool = False
    hangs_s: float = 0.0
    """How long a round stands still that needs these nodes, until they are back or the others have noticed it."""


BLOWS = {
    blow.name: blow
    for blow in (
        Blow("kill -9 of the leaders' node", kill_leaders_node, 1.0),
        Blow("kill -9 of leader and its node", kill_leaders_node_with_the_leader, 1.0, has_standby=True),
        Blow("kill -9 of a worker's node", kill_workers_node, 1.0),
        Blow("kill -9 of each in turn", kill_each_in_turn, 200.0),
        Blow("rolling restart", restart_each_in_turn, 200.0),
        Blow("two of three killed for 20 s", kill_a_majority, 90.0, hangs_s=90.0),
        Blow("SIGSTOP for 90 s", pause_leaders_node, LONGER_THAN_THE_NET_TICK_S, hangs_s=LONGER_THAN_THE_NET_TICK_S),
        Blow("partition for 90 s", isolate_leaders_node, LONGER_THAN_THE_NET_TICK_S),
    )
}


def node_of(name: str, cluster: RabbitCluster, fleet: Fleet) -> RabbitNode:
    """The node where most connections of this member are."""
    found: list[RabbitNode] = []

    def is_connected() -> bool:
        ports = _ports_of(fleet.members[name].pid)
        found[:] = [node for node in cluster.nodes for port in ports if node.port == port]
        return bool(found)

    assert wait_until(is_connected, timeout_s=_CONNECTED_WITHIN_S), f"{name} is at no node"
    return Counter(found).most_common(1)[0][0]


def _ports_of(pid: int) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        return [each.raddr.port for each in psutil.Process(pid).net_connections("tcp") if each.raddr]
    return []


def _let_a_round_pass(fleet: Fleet) -> None:
    """Waits until a round that is opened from now on is over, or the run is."""
    number = fleet.num_opened_rounds() + 1
    aggregator = fleet.members[AGGREGATOR]
    passed = wait_until(
        lambda: fleet.num_opened_rounds() > number or not aggregator.is_running, timeout_s=_ROUND_WITHIN_S
    )
    assert passed, f"no round after {number} was opened within {_ROUND_WITHIN_S:g} s:\n{fleet.logs()}"
