"""A cluster of three loses nodes while a run goes on over it: nobody ends, nothing is lost or counted twice, and no bit
changes. `make cluster` does more of it, and longer."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from certificates import Authority
from cluster.blows import BLOWS, Blow, restart_each_in_turn
from cluster.struck import LEADERS, OWN, NodeCell, cells, struck, undisturbed
from cluster.trial import calm, disturbed
from pydantic import SecretStr
from rabbitmq_cluster import RabbitCluster
from rabbitmq_node import RabbitNode, free_port, skip_without_rabbitmq

from broker.connecting import connect
from broker.settings import BrokerSettings
from broker.transport import Source
from console.errors import ExitCode
from operations.status_cli import main

pytestmark = pytest.mark.cluster
NUM_ROUNDS = 20
SHORT_RESTART = Blow("rolling restart", restart_each_in_turn, lasts_s=40.0)
"""On a slow machine, the run is over before the last node is back."""
SOON_S = 60.0
A_FEW = [
    cell
    for cell in cells()
    if (cell.point.name, cell.size, cell.whose)
    in (
        ("update on the wire, not confirmed", "small", OWN),
        ("update on the wire, not confirmed", "small", LEADERS),
        ("model's blob, middle part", "blob", OWN),
    )
]
MOST_GAP_S = 30.0
"""Three times what is asked of a machine that does nothing else."""


@dataclass(frozen=True)
class Secured:
    """Three nodes, each of which speaks TLS at an address of its own, with a certificate for that address alone."""

    cluster: RabbitCluster
    ca: Path
    urls: tuple[str, ...]

    def node_of(self, url: str) -> RabbitNode:
        return self.cluster.nodes[self.urls.index(url)]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    skip_without_rabbitmq()
    folder, port = tmp_path_factory.mktemp("cluster"), free_port()
    authority, hosts = Authority(folder, "ours"), [f"127.0.0.{number}" for number in (2, 3, 4)]
    pairs = [authority.issue(f"node-{host}", host) for host in hosts]
    own = [
        f"listeners.ssl.1 = {host}:{port}\n"
        f"ssl_options.cacertfile = {authority.cert}\n"
        f"ssl_options.certfile = {pair.cert}\n"
        f"ssl_options.keyfile = {pair.key}\n"
        for host, pair in zip(hosts, pairs, strict=True)
    ]
    with RabbitCluster(folder, own_config=own) as running:
        yield Secured(running, authority.cert, tuple(f"amqps://guest:guest@{host}:{port}/" for host in hosts))


@pytest.fixture(scope="module")
def cluster(secured: Secured) -> RabbitCluster:
    return secured.cluster


@pytest.fixture(autouse=True)
def all_there(cluster: RabbitCluster) -> None:
    cluster.heal()


@pytest.fixture(scope="module")
def expected(cluster: RabbitCluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    return calm(tmp_path_factory.mktemp("calm"), cluster, queue="calm", rounds=NUM_ROUNDS)


@pytest.mark.timeout(300)
def test_the_node_that_the_aggregator_leads_at_is_killed_in_mid_round(
    cluster: RabbitCluster, expected: str, tmp_path: Path, queue: str
) -> None:
    outcome = disturbed(
        tmp_path, cluster, BLOWS["kill -9 of the leaders' node"], queue=queue, rounds=NUM_ROUNDS, expected=expected
    )
    assert outcome.is_ok, outcome
    assert outcome.longest_gap_s < MOST_GAP_S, outcome


@pytest.mark.timeout(300)
def test_a_rolling_restart_ends_nobody(cluster: RabbitCluster, expected: str, tmp_path: Path, queue: str) -> None:
    outcome = disturbed(tmp_path, cluster, SHORT_RESTART, queue=queue, rounds=NUM_ROUNDS, expected=expected)
    assert outcome.is_right, outcome


@pytest.fixture(scope="module")
def expected_of_points(cluster: RabbitCluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), cluster, queue="undisturbed")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("cell", A_FEW, ids=lambda cell: cell.name)
def test_a_node_is_killed_at_a_point_where_a_member_and_the_broker_meet(
    cluster: RabbitCluster, expected_of_points: str, tmp_path: Path, queue: str, cell: NodeCell
) -> None:
    outcome = struck(cell, tmp_path, cluster, queue=queue, expected=expected_of_points)
    assert not outcome.problems, str(outcome)


@pytest.mark.timeout(120)
def test_over_tls_the_next_node_is_known_by_its_own_certificate(
    secured: Secured, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = BrokerSettings(broker=SecretStr(",".join(secured.urls)), queue=queue, tls_ca=secured.ca)
    with closing(connect(settings, role="aggregator")) as aggregator:
        aggregator.declare()
        aggregator.listen(Source.UPDATES)
        for number in range(2):
            aggregator.send(bytes([number]), worker="a")
            delivery = aggregator.receive(SOON_S)
            assert delivery is not None
            assert bytes(delivery.body) == bytes([number])
            aggregator.ack([delivery])
            if number == 0:
                _node_of_this_process(secured).kill()


def _node_of_this_process(secured: Secured) -> RabbitNode:
    hosts = [each.raddr.ip for each in psutil.Process().net_connections("tcp") if each.raddr]
    return next(secured.node_of(url) for url in secured.urls if urlsplit(url).hostname in hosts)


@pytest.mark.timeout(120)
def test_who_looks_at_a_cluster_without_a_majority_gets_an_answer_soon(
    cluster: RabbitCluster, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for node in cluster.nodes[1:]:
        node.kill()
    begun_at = time.monotonic()
    assert main(["--broker", cluster.url, "--queue", queue]) == ExitCode.UNREACHABLE
    assert time.monotonic() - begun_at < 12.0  # 10 s, on a machine that does nothing else
    assert capsys.readouterr().err.count("\n") == 1
