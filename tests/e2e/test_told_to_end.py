"""SIGTERM while a command waits for a broker that nobody can reach: it ends soon, with the code of a stop."""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from federation import ATTENTIVE, Command, Federation
from rabbitmq_node import RabbitNode, free_port

from console.errors import ExitCode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(120)

SOON_S = 20.0
"""A process may have to be told for up to five seconds that a node which took its connection never answers."""
PATIENT = ("--connect-timeout-s", "600")
START: dict[str, tuple[Callable[[Federation], Command], ExitCode]] = {
    "aggregator": (lambda here: here.aggregator("--rounds", "3", "--quorum", "1", *PATIENT), ExitCode.INTERRUPTED),
    "partial": (lambda here: here.partial(0, 1, *PATIENT), ExitCode.INTERRUPTED),
    "worker": (lambda here: here.worker("worker-0", *PATIENT), ExitCode.OK),
    "simulation": (
        lambda here: here.simulation(
            "--task", ATTENTIVE, "--workers", "1", "--rounds", "1", "--no-baselines", *PATIENT
        ),
        ExitCode.INTERRUPTED,
    ),
}


@pytest.mark.parametrize("who", START)
def test_who_is_told_to_end_while_nobody_listens_ends_as_if_it_had_been_connected(
    tmp_path: Path, queue: str, who: str
) -> None:
    start, code = START[who]
    with Federation(tmp_path, broker=f"amqp://guest:guest@127.0.0.1:{free_port()}/", queue=queue) as federation:
        command = start(federation)
        command.says("trying again")
        assert _ends_soon(command) == code, command.tail
    assert "Traceback" not in command.said


def test_who_is_told_to_end_while_a_broker_takes_its_connection_and_never_answers_ends_soon(
    tmp_path: Path, queue: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(60.0)
        url = f"amqp://guest:guest@127.0.0.1:{deaf.getsockname()[1]}/"
        with ExitStack() as stack:
            command = START["aggregator"][0](stack.enter_context(Federation(tmp_path, broker=url, queue=queue)))
            stack.enter_context(deaf.accept()[0])
            assert _ends_soon(command) == ExitCode.INTERRUPTED, command.tail
            deaf.close()


def test_who_stands_by_for_a_broker_that_is_gone_ends_when_told(
    mortal_federation: Federation, mortal_node: RabbitNode
) -> None:
    run = ("--rounds", "3", "--quorum", "1", "--deadline-s", "none")
    leader = mortal_federation.aggregator(*run)
    leader.says("waits for")
    standby = mortal_federation.aggregator(*run)
    standby.says("standing by")
    mortal_node.kill()
    for each in (leader, standby):
        each.says("trying again")
    assert [_ends_soon(each) for each in (standby, leader)] == [ExitCode.INTERRUPTED] * 2


def _ends_soon(command: Command) -> int:
    told_at = time.monotonic()
    command.terminate()
    code = command.ends()
    assert time.monotonic() - told_at < SOON_S, command.tail
    return code
