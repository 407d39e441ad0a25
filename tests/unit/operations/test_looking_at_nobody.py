"""Commands that look end soon where no node of a cluster answers, with one line that names all that were asked."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
from rabbitmq_node import free_port

from broker import settings as broker_settings
from console.errors import ExitCode
from operations import dead_cli, status_cli
from operations.runs import run_cli
from worker import cli as worker_cli

pytestmark = pytest.mark.timeout(60)

Main = Callable[[Sequence[str]], int]
LOOKING: dict[str, tuple[Main, list[str]]] = {
    "fl-status": (status_cli.main, []),
    "fl-dead": (dead_cli.main, ["list"]),
    "fl-run": (run_cli.main, ["pause"]),
    "fl-worker": (worker_cli.main, ["--check"]),
}
MOST_S = 10.0
SHORT_S = 0.5


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Of one node that is not there, and of two that hang: they take connections and say nothing."""
    with ExitStack() as stack:
        hanging = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        yield [free_port(), *(each.getsockname()[1] for each in hanging)]


def looked(ports: list[int], who: str) -> tuple[int, float]:
    """Exit code, and seconds."""
    main, flags = LOOKING[who]
    url = ",".join(f"amqp://guest:guest@127.0.0.1:{port}/" for port in ports)
    begun_at = time.monotonic()
    return main([*flags, "--broker", url]), time.monotonic() - begun_at


def test_nodes_that_are_gone_or_hang_are_given_up_within_ten_seconds(
    ports: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    code, seconds = looked(ports, "fl-status")
    assert code == ExitCode.UNREACHABLE
    assert broker_settings._SOON_S - 1.0 < seconds < MOST_S
    names_all(capsys.readouterr().err, ports)


@pytest.mark.parametrize("who", LOOKING)
def test_each_command_that_looks_names_in_one_line_all_that_were_asked(
    ports: list[int], who: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_settings, "_SOON_S", SHORT_S)
    code, seconds = looked(ports, who)
    assert code == ExitCode.UNREACHABLE
    assert seconds < MOST_S / 2
    said = capsys.readouterr().err
    assert said.startswith(f"{who}: ")
    names_all(said, ports)


def test_a_time_to_connect_that_was_given_holds(ports: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    begun_at = time.monotonic()
    url = f"amqp://guest:guest@127.0.0.1:{ports[0]}/"
    assert status_cli.main(["--broker", url, "--connect-timeout-s", "0.2"]) == ExitCode.UNREACHABLE
    assert time.monotonic() - begun_at < 3.0
    names_all(capsys.readouterr().err, ports[:1])


def names_all(said: str, ports: list[int]) -> None:
    assert said.count("\n") == 1, said
    for port in ports:
        assert f":{port}/" in said, said
