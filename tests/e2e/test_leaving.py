"""How commands end: when the run is finished, when they are told to, and when they are run again."""

import json

import pytest
from federation import DEAF, Federation, run_command
from rabbitmq_node import RabbitNode, wait_until

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)  # of which an idle machine needs ten seconds

AT_ONCE_S = 10.0
"""What a person takes for at once, on a machine with much else to do."""


def test_a_worker_told_to_stop_in_training_leaves_at_once(federation: Federation) -> None:
    federation.gates.hold("one", 1)
    federation.aggregator()
    worker = federation.worker("one")
    federation.gates.wait_for("one", 1)

    worker.terminate()

    assert worker.ends(timeout_s=AT_ONCE_S) == 0
    assert "worker one leaves" in worker.said
    assert "Traceback" not in worker.said
    assert federation.verdicts("one", 1) == []


def test_a_worker_told_to_stop_while_it_waits_leaves_at_once(federation: Federation) -> None:
    worker = federation.worker("one")
    worker.says("waiting for the aggregator")

    worker.terminate()

    assert worker.ends(timeout_s=AT_ONCE_S) == 0


def test_a_worker_told_to_stop_twice_does_not_finish_its_training(federation: Federation) -> None:
    federation.gates.hold("one", 1)
    federation.aggregator(task=DEAF)
    worker = federation.worker("one", task=DEAF)
    federation.gates.wait_for("one", 1)

    def is_ended_by_another() -> bool:
        worker.terminate()
        return not worker.is_running

    assert wait_until(is_ended_by_another, timeout_s=AT_ONCE_S)
    assert worker.ends() == 130


def test_a_worker_with_an_update_to_send_leaves_though_the_broker_is_gone(
    mortal_federation: Federation, mortal_node: RabbitNode
) -> None:
    federation = mortal_federation
    federation.gates.hold("one", 1)
    aggregator = federation.aggregator(task=DEAF)
    worker = federation.worker("one", task=DEAF)
    federation.gates.wait_for("one", 1)
    mortal_node.kill()
    worker.says("trying again in")
    federation.gates.release("one", 1)
    worker.terminate()
    assert worker.ends(timeout_s=AT_ONCE_S) == 0
    aggregator.says("trying again in")
    aggregator.terminate()
    assert aggregator.ends(timeout_s=AT_ONCE_S) == 130


def test_a_worker_that_comes_to_a_finished_run_leaves_with_success(federation: Federation) -> None:
    aggregator = federation.aggregator("--rounds", "1")
    assert [federation.worker("one").ends(), aggregator.ends()] == [0, 0]

    late = federation.worker("late")

    assert late.ends() == 0
    assert "is finished after 1 rounds" in late.said


def test_a_finished_command_run_again_ends_at_once_with_the_same_summary(federation: Federation) -> None:
    aggregator = federation.aggregator("--rounds", "2")
    assert [federation.worker("one").ends(), aggregator.ends()] == [0, 0]
    before = (federation.state / "summary.json").read_bytes()

    again = federation.aggregator("--rounds", "2")

    assert again.ends() == 0
    assert (federation.state / "summary.json").read_bytes() == before
    assert "is finished: all 2 rounds are done" in again.said


def test_a_finished_run_goes_on_when_it_is_given_more_rounds(federation: Federation) -> None:
    aggregator = federation.aggregator("--rounds", "1")
    assert [federation.worker("one").ends(), aggregator.ends()] == [0, 0]

    more = federation.aggregator("--rounds", "2")
    federation.wait_for_head(2)
    worker = federation.worker("one")

    assert [more.ends(), worker.ends()] == [0, 0]
    assert federation.folded() == [(1, "one"), (2, "one")]


def test_check_tells_whether_the_queue_is_there(federation: Federation) -> None:
    flags = ("--check", "--queue", federation.queue)
    env = {"FEDMQ_BROKER": federation.broker}

    missing = run_command("worker.cli", *flags, folder=federation.folder, env=env)
    aggregator = federation.aggregator()
    aggregator.says("waits for")
    there = run_command("worker.cli", *flags, folder=federation.folder, env=env)

    assert missing.returncode == 4
    assert missing.stdout == ""
    assert federation.queue in missing.stderr
    assert len(missing.stderr.splitlines()) == 1
    assert there.returncode == 0
    assert there.stderr == ""
    assert (
        there.stdout == f"{federation.broker.replace(':guest@', '@')} is reachable and has queue '{federation.queue}'\n"
    )


def test_the_summary_holds_the_settings_and_no_password(federation: Federation) -> None:
    aggregator = federation.aggregator("--rounds", "1", "--lr", "0.125")
    assert [federation.worker("one").ends(), aggregator.ends()] == [0, 0]
    assert federation.summary["settings"]["lr"] == 0.125
    assert "guest" not in json.dumps(federation.summary)
