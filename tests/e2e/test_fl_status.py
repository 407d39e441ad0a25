"""``fl-status`` from a second shell: what it says of a run, of one that is away, and of nothing."""

import json
from typing import Any

import pytest
from federation import Federation, run_command
from rabbitmq_node import free_port, wait_until

from broker.errors import ExitCode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)
SOON_S = 60.0


def look(federation: Federation, *flags: str) -> str:
    done = run_command(
        "broker.status_cli",
        *("--queue", federation.queue, *flags),
        folder=federation.folder,
        env={"FEDMQ_BROKER": federation.broker},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(federation: Federation) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(look(federation, "--json"))
    return loaded


def test_it_says_who_is_there_which_round_is_open_and_what_waits(federation: Federation) -> None:
    federation.gates.hold("anna", 1)
    aggregator = federation.aggregator("--rounds", "2", "--quorum", "2")
    for name in ("anna", "bert"):
        federation.worker(name)
    federation.gates.wait_for("anna", 1)
    federation.gates.hold("bert", 2)

    def is_as_expected() -> bool:
        said = status(federation)["status"] or {"workers": []}
        states = {worker["name"]: (worker["state"], worker["has_answered"]) for worker in said["workers"]}
        return states == {"anna": ("training", False), "bert": ("idle", True)} and said["num_folded"] == 1

    assert wait_until(is_as_expected, timeout_s=SOON_S), status(federation)
    said = status(federation)["status"]
    assert (said["round"], said["num_rounds"], said["target"], said["state"]) == (1, 2, 2, "running")
    text = look(federation)
    assert "round     1 of 2, running" in text
    assert "updates   1 of 2 folded" in text
    assert f"{federation.queue}.dead: 0 waiting" in text

    aggregator.kill()
    federation.gates.release("anna", 1)
    waits = wait_until(lambda: status(federation)["num_waiting"][federation.queue] == 2, timeout_s=SOON_S)
    assert waits, status(federation)  # one was folded and not committed, and comes again

    with federation.channel() as channel:
        channel.basic_publish("", federation.topology.status, b"forged <script>")
    done = run_command(
        "broker.status_cli",
        *("--queue", federation.queue),
        folder=federation.folder,
        env={"FEDMQ_BROKER": federation.broker},
    )
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert "is not an aggregator's" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_that_is_over_says_so(federation: Federation) -> None:
    aggregator = federation.aggregator("--rounds", "1", "--quorum", "1")
    worker = federation.worker("anna")
    assert (aggregator.ends(), worker.ends()) == (0, 0)
    assert "1 of 1, finished" in look(federation, "--watch")
    assert status(federation)["status"]["state"] == "finished"


def test_a_broker_that_is_away_and_a_queue_that_is_not_there_are_one_clear_line(federation: Federation) -> None:
    for env, code, word in (
        ({"FEDMQ_BROKER": federation.broker}, ExitCode.UNREACHABLE, f"{federation.queue}-not"),
        ({"FEDMQ_BROKER": f"amqp://guest:guest@127.0.0.1:{free_port()}/"}, ExitCode.UNREACHABLE, "127.0.0.1"),
    ):
        flags = ("--queue", f"{federation.queue}-not", "--connect-timeout-s", "0.5")
        done = run_command("broker.status_cli", *flags, folder=federation.folder, env=env)
        assert (done.returncode, done.stdout) == (code, "")
        assert word in done.stderr
        assert len([line for line in done.stderr.splitlines() if line.startswith("fl-status: ")]) == 1
