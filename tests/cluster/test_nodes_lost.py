"""A cluster of three loses nodes while a run goes on over it: nobody ends, nothing is lost or counted twice, and no bit
changes. `make cluster` does more of it, and longer."""

import time
from pathlib import Path

import pytest
from cluster.blows import BLOWS, Blow, restart_each_in_turn
from cluster.trial import calm, disturbed
from rabbitmq_cluster import RabbitCluster

from console.errors import ExitCode
from operations.status_cli import main

pytestmark = pytest.mark.cluster
NUM_ROUNDS = 20
SHORT_RESTART = Blow("rolling restart", restart_each_in_turn, lasts_s=40.0)
"""On a slow machine, the run is over before the last node is back."""
MOST_GAP_S = 30.0
"""Three times what is asked of a machine that does nothing else."""


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
