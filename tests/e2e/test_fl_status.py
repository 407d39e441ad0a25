"""``fl-status`` from a second shell: what it says of a run, of one that is away, and of nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from federation import ATTENTIVE, Federation, environment, run_command
from page_server import answer, events, served
from pydantic import SecretStr
from rabbitmq_node import free_port, wait_until

from broker.connecting import connect
from broker.settings import BrokerSettings
from broker.wire.signatures import Believing
from console.errors import ExitCode
from dashboard.live_status import LiveStatus
from dashboard.settings import DashboardSettings
from operations.snapshot import Snapshot, take_snapshot

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)
SOON_S = 60.0


def look(federation: Federation, *flags: str, exit_code: ExitCode = ExitCode.OK) -> str:
    done = run_command(
        "operations.status_cli",
        *("--queue", federation.queue, *flags),
        folder=federation.folder,
        env={"FEDMQ_BROKER": federation.broker},
    )
    assert done.returncode == exit_code, done.stderr
    return done.stdout


def status(federation: Federation, *, exit_code: ExitCode = ExitCode.OK) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(look(federation, "--json", exit_code=exit_code))
    return loaded


def sees(federation: Federation, claim: Callable[[Snapshot], bool]) -> bool:
    """Whether this holds soon, of what the command would see: to start it again and again takes long."""
    with closing(connect(BrokerSettings(broker=federation.broker, queue=federation.queue), role="test")) as transport:
        return wait_until(lambda: claim(take_snapshot(transport, federation.topology, Believing())), timeout_s=SOON_S)


def workers(look: Snapshot) -> dict[str, tuple[str, bool]]:
    """Worker -> state, and whether it has answered."""
    return {worker.name: (worker.state, worker.has_answered) for worker in look.status.workers} if look.status else {}


def test_it_says_who_is_there_which_round_is_open_and_what_waits(federation: Federation) -> None:
    federation.gates.hold("anna", 1)
    aggregator = federation.aggregator("--rounds", "2", "--quorum", "2")
    for name in ("anna", "bert"):
        federation.worker(name)
    federation.gates.wait_for("anna", 1)
    federation.gates.hold("bert", 2)

    states = {"anna": ("training", False), "bert": ("idle", True)}
    assert sees(federation, lambda look: workers(look) == states), look(federation)
    seen = status(federation)
    said = seen["status"]
    assert {worker["name"]: worker["state"] for worker in said["workers"]} == {"anna": "training", "bert": "idle"}
    assert (said["round"], said["num_rounds"], said["num_folded"], said["target"]) == (1, 2, 1, 2)
    assert (seen["state"], seen["num_readers"][federation.queue]) == ("running", 1)
    text = look(federation)
    assert "round    1 of 2\nstate    running\n" in text
    assert "updates  1 of 2 folded" in text
    assert f"{federation.queue}.dead: 0 set aside" in text

    aggregator.kill()
    federation.gates.release("anna", 1)
    both = {federation.queue: 2, f"{federation.queue}.dead": 0}  # one was folded and not committed, and comes again
    assert sees(federation, lambda look: look.num_waiting == both)
    seen = status(federation, exit_code=ExitCode.UNREACHABLE)
    assert (seen["state"], seen["is_led"], seen["num_waiting"]) == ("gone", False, both)

    with federation.channel() as channel:
        channel.basic_publish("", federation.topology.statuses, b"forged <script>")
    done = run_command(
        "operations.status_cli",
        *("--queue", federation.queue),
        folder=federation.folder,
        env={"FEDMQ_BROKER": federation.broker},
    )
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert "is not an aggregator's" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_who_has_read_enough_of_it_ends_it(federation: Federation) -> None:
    with closing(connect(BrokerSettings(broker=federation.broker, queue=federation.queue), role="test")) as transport:
        transport.declare()
    watching = subprocess.Popen(
        [sys.executable, "-m", "operations.status_cli", "--queue", federation.queue, "--watch", "--json"],
        env=environment(FEDMQ_BROKER=federation.broker),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["state"] == "unheard"
    watching.stdout.close()
    assert watching.stderr is not None
    assert (watching.wait(SOON_S), watching.stderr.read()) == (ExitCode.UNREACHABLE, "")
    watching.stderr.close()


def test_a_run_that_is_over_says_so(federation: Federation) -> None:
    aggregator = federation.aggregator("--rounds", "1", "--quorum", "1")
    worker = federation.worker("anna")
    assert (aggregator.ends(), worker.ends()) == (0, 0)
    assert "round  1 of 1\nstate  finished " in look(federation, "--watch")
    assert status(federation)["status"]["state"] == "finished"


def test_a_simulation_over_rabbitmq_is_seen_and_so_is_where_it_stopped(federation: Federation) -> None:
    federation.gates.hold("worker-1", 2)
    flags = ("--task", ATTENTIVE, "--workers", "2", "--rounds", "3", "--no-baselines", "--state", str(federation.state))
    simulation = federation.simulation(*flags, "--queue", federation.queue)
    federation.gates.wait_for("worker-1", 2)
    states = {"worker-0": ("idle", True), "worker-1": ("training", False)}
    assert sees(federation, lambda look: workers(look) == states), look(federation)
    assert "round    2 of 3\nstate    running\nupdates  1 of 2 folded" in look(federation)
    simulation.terminate()
    assert simulation.ends() == ExitCode.INTERRUPTED
    assert "round  2 of 3\nstate  stopped " in look(federation, exit_code=ExitCode.UNREACHABLE)


def test_a_broker_that_is_away_and_a_queue_that_is_not_there_are_one_clear_line(federation: Federation) -> None:
    for env, code, word in (
        ({"FEDMQ_BROKER": federation.broker}, ExitCode.UNREACHABLE, f"{federation.queue}-not"),
        ({"FEDMQ_BROKER": f"amqp://guest:guest@127.0.0.1:{free_port()}/"}, ExitCode.UNREACHABLE, "127.0.0.1"),
    ):
        flags = ("--queue", f"{federation.queue}-not", "--connect-timeout-s", "0.5")
        done = run_command("operations.status_cli", *flags, folder=federation.folder, env=env)
        assert (done.returncode, done.stdout) == (code, "")
        assert word in done.stderr
        assert len([line for line in done.stderr.splitlines() if line.startswith("fl-status: ")]) == 1


def test_the_page_shows_what_the_broker_says(federation: Federation) -> None:
    federation.gates.hold("anna", 1)
    federation.aggregator("--rounds", "2", "--quorum", "2", "--deadline-s", "500")
    federation.worker("anna")
    federation.gates.wait_for("anna", 1)
    broker, name = SecretStr(federation.broker), federation.state.name
    live = LiveStatus(DashboardSettings(state=federation.state, broker=broker, queue=federation.queue))
    with (
        closing(live),
        served(federation.state, live=live) as port,
        answer(port, f"/run/{name}/events") as response,
    ):
        said = next(data["live"] for data in events(response) if data.get("live") and data["live"]["workers"])
        assert said["workers"] == [{"name": "anna", "state": "training"}]
        assert (said["num_folded"], said["target"], said["num_waiting"]) == (0, 2, 0)
        assert 400 < said["deadline_in_s"] <= 500
