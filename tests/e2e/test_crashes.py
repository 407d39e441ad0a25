"""Kill anything: the same command goes on at the same round, nothing is lost, nothing counts twice."""

from collections.abc import Callable

import pytest
from federation import DEAF, Federation
from rabbitmq_node import RabbitNode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)  # of which an idle machine needs ten seconds

NAMES = ("worker-0", "worker-1")
ALL_FOLDED_ONCE = [(number, name) for number in (1, 2, 3) for name in NAMES]
RUN = ("--rounds", "3", "--quorum", "2")
AT_ONCE, NEVER = ("--commit-every-s", "0.05"), ("--commit-every-s", "3600")


@pytest.fixture
def expected(undisturbed_sha256: Callable[..., str]) -> str:
    return undisturbed_sha256(*NAMES, rounds=3)


def test_an_aggregator_killed_after_a_commit_goes_on_at_the_same_round(federation: Federation, expected: str) -> None:
    federation.gates.hold("worker-1", 2)
    aggregator = federation.aggregator(*RUN, *AT_ONCE)
    workers = [federation.worker(name) for name in NAMES]
    federation.wait_for_verdict("folded", "worker-0", 2)

    aggregator.kill()
    successor = federation.aggregator(*RUN, *AT_ONCE)
    successor.says("round 2 goes on with 1 updates folded")
    federation.gates.release("worker-1", 2)

    assert [successor.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
    assert federation.folded() == ALL_FOLDED_ONCE
    assert federation.summary["final"]["model_sha256"] == expected


def test_an_aggregator_killed_before_a_commit_folds_the_same_updates_again(
    federation: Federation, expected: str
) -> None:
    federation.gates.hold("worker-1", 2)
    aggregator = federation.aggregator(*RUN, *NEVER)
    workers = [federation.worker(name) for name in NAMES]
    aggregator.says("round   2 ← worker-0")
    assert federation.verdicts("worker-0", 2) == []

    aggregator.kill()
    successor = federation.aggregator(*RUN, *NEVER)
    successor.says("round   2 ← worker-0")
    federation.gates.release("worker-1", 2)

    assert [successor.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
    assert federation.folded() == ALL_FOLDED_ONCE
    assert federation.summary["final"]["model_sha256"] == expected


def test_an_aggregator_told_to_stop_commits_and_the_same_command_goes_on(federation: Federation, expected: str) -> None:
    federation.gates.hold("worker-1", 2)
    aggregator = federation.aggregator(*RUN, *NEVER)
    workers = [federation.worker(name) for name in NAMES]
    aggregator.says("round   2 ← worker-0")
    assert federation.verdicts("worker-0", 2) == []

    aggregator.terminate()

    assert aggregator.ends(timeout_s=10) == 130
    assert "stopped in round 2; run the same command again to go on" in aggregator.said
    assert federation.verdicts("worker-0", 2) == ["folded"]
    successor = federation.aggregator(*RUN, *NEVER)
    successor.says("round 2 goes on with 1 updates folded")
    federation.gates.release("worker-1", 2)
    assert [successor.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
    assert federation.folded() == ALL_FOLDED_ONCE
    assert federation.summary["final"]["model_sha256"] == expected


def test_a_second_aggregator_stands_by_and_takes_over_from_a_killed_one(federation: Federation, expected: str) -> None:
    federation.gates.hold("worker-1", 2)
    first = federation.aggregator(*RUN, *AT_ONCE)
    first.says("state in")  # it leads, whichever process would have been quicker
    workers = [federation.worker(name) for name in NAMES]
    second, third = federation.aggregator(*RUN, *AT_ONCE), federation.aggregator(*RUN, *AT_ONCE)
    for standby in (second, third):
        standby.says("another aggregator leads; standing by")
    federation.wait_for_verdict("folded", "worker-0", 2)
    third.terminate()
    assert third.ends(timeout_s=10) == 130

    first.kill()
    second.says("round 2 goes on with 1 updates folded")
    federation.gates.release("worker-1", 2)

    assert [second.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
    assert federation.folded() == ALL_FOLDED_ONCE
    assert federation.summary["final"]["model_sha256"] == expected


def test_updates_that_come_while_no_aggregator_runs_wait_for_the_next(federation: Federation, expected: str) -> None:
    for name in NAMES:
        federation.gates.hold(name, 2)
    aggregator = federation.aggregator(*RUN)
    workers = [federation.worker(name) for name in NAMES]
    for name in NAMES:
        federation.gates.wait_for(name, 2)

    aggregator.kill()
    for worker, name in zip(workers, NAMES, strict=True):
        federation.gates.release(name, 2)
        worker.says("round   2 →")
    successor = federation.aggregator(*RUN)

    assert [successor.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
    assert federation.folded() == ALL_FOLDED_ONCE
    assert federation.summary["final"]["model_sha256"] == expected


def test_a_worker_killed_in_training_and_started_again_takes_part_in_the_same_round(
    federation: Federation, expected: str
) -> None:
    federation.gates.hold("worker-1", 2)
    aggregator = federation.aggregator(*RUN)
    steady, killed = (federation.worker(name) for name in NAMES)
    federation.gates.wait_for("worker-1", 2)

    killed.kill()
    federation.gates.release("worker-1", 2)
    again = federation.worker("worker-1")

    assert [aggregator.ends(), steady.ends(), again.ends()] == [0, 0, 0]
    assert federation.folded() == ALL_FOLDED_ONCE
    assert federation.summary["final"]["model_sha256"] == expected


def test_a_broker_killed_in_mid_run_disturbs_nothing(
    mortal_federation: Federation, mortal_node: RabbitNode, expected: str
) -> None:
    """One update is folded and not committed, the other one is finished while there is no broker.

    The queues are older than the second that RabbitMQ 3.10 needs for them to survive: round 1 took longer.
    """
    federation = mortal_federation
    federation.gates.hold("worker-1", 2)
    aggregator = federation.aggregator(*RUN, *NEVER, task=DEAF)
    quick, slow = (federation.worker(name, task=DEAF) for name in NAMES)
    aggregator.says("round   2 ← worker-0")
    federation.gates.wait_for("worker-1", 2)

    mortal_node.kill()
    federation.gates.release("worker-1", 2)
    for command in (aggregator, quick, slow):
        command.says("trying again in")
    mortal_node.start()

    assert [aggregator.ends(), quick.ends(), slow.ends()] == [0, 0, 0]
    assert federation.folded() == ALL_FOLDED_ONCE
    assert federation.summary["final"]["model_sha256"] == expected
    for command in (aggregator, quick, slow):
        assert "Traceback" not in command.said
