"""fl-status on a real RabbitMQ, beside an aggregator's wire alone: it takes nothing away, and says what is missing."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from rabbitmq_node import RabbitNode, wait_until

from broker.connecting import connect
from broker.settings import BrokerSettings
from broker.transport import Source, Transport
from broker.wire.codec import encode
from broker.wire.messages import Status
from broker.wire.signatures import Believing, Trust
from broker.wire.topology import Topology
from console.errors import BrokerUnreachable, ExitCode
from operations import status_cli
from operations.snapshot import Snapshot, take_snapshot
from operations.status_cli import main

SOON_S = 20.0
Shell = Callable[..., tuple[str, str]]


def status(state: str = "running", **changes: Any) -> bytes:
    fields = {
        "run": "demo",
        "run_id": "demo.1",
        "state": state,
        "sent_at": time.time(),
        "round": 1,
        "num_rounds": 2,
        "num_folded": 0,
        "target": 1,
        "num_present": 0,
    }
    return encode(Status.model_validate(fields | changes))


@pytest.fixture
def aggregator(broker_url: str, queue: str) -> Iterator[Transport]:
    """The wire of an aggregator; its queues are there."""
    settings = BrokerSettings(broker=broker_url, queue=queue)
    with closing(connect(settings, role="test", topology=Topology(queue, num_shards=2))) as transport:
        transport.declare()
        yield transport
        transport.remove()


@pytest.fixture
def shell(broker_url: str, queue: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    """``fl-status`` with these flags, and its output and errors, after it left with this code."""

    def run(*flags: str, exit_code: ExitCode = ExitCode.OK, broker: str = broker_url) -> tuple[str, str]:
        capsys.readouterr()
        assert main(["--broker", broker, "--queue", queue, "--connect-timeout-s", "0", *flags]) == exit_code
        printed = capsys.readouterr()
        return printed.out, printed.err

    return run


def has_said(aggregator: Transport, body: bytes) -> None:
    aggregator.send_status(body)
    assert wait_until(lambda: aggregator.read_status() == body, timeout_s=SOON_S)


def test_queues_that_nobody_leads_and_one_that_leads_and_has_said_nothing_are_told_apart(
    aggregator: Transport, shell: Shell, queue: str
) -> None:
    text, _ = shell(exit_code=ExitCode.UNREACHABLE)
    assert text.splitlines() == [
        "state  no aggregator leads here, and none has reported since the broker started",
        f"queue  {queue}: 0 waiting",
        f"dead   {queue}.dead: 0 set aside",
    ]
    aggregator.listen(Source.UPDATES)
    leads = "an aggregator leads; it has not reported yet"
    assert wait_until(lambda: take_snapshot(aggregator, Topology(queue), Believing()).is_led, timeout_s=SOON_S)
    assert leads in shell()[0]


def test_looking_takes_nothing_away_and_counts_what_waits_and_who_takes_it(
    aggregator: Transport, shell: Shell, queue: str
) -> None:
    aggregator.send(b"update", worker="anna")
    aggregator.send(b"update", worker="anna", num_shards=2)
    has_said(aggregator, status(num_shards=2))
    for _ in range(3):
        said = json.loads(shell("--json", exit_code=ExitCode.UNREACHABLE)[0])
        assert (said["state"], said["is_led"], said["status"]["round"]) == ("gone", False, 1)
        assert sorted(said["num_waiting"].values()) == [0, 0, 1, 1]
        assert set(said["num_waiting"]) == {queue, f"{queue}.dead", f"{queue}.shard.0", f"{queue}.shard.1"}
        assert (said["num_waiting"][queue], set(said["num_readers"].values())) == (1, {0})
    text, _ = shell(exit_code=ExitCode.UNREACHABLE)
    assert text.count("no partial aggregator takes them") == 2
    aggregator.listen(Source.UPDATES)
    assert aggregator.receive(SOON_S) is not None


def test_dead_letters_are_counted_with_what_to_do(aggregator: Transport, shell: Shell, queue: str) -> None:
    aggregator.listen(Source.UPDATES)
    aggregator.send(b"broken", worker="anna")
    delivery = aggregator.receive(SOON_S)
    assert delivery is not None
    aggregator.set_aside(delivery, "does not decode")
    hint = f"dead   {queue}.dead: 1 set aside; see fl-dead list --queue {queue}"
    assert wait_until(lambda: hint in shell()[0], timeout_s=SOON_S)


def test_an_older_aggregators_queues_are_told_from_none(
    aggregator: Transport, shell: Shell, broker_url: str, queue: str
) -> None:
    aggregator._writer.call(lambda link: link.channel("declare").queue_delete(f"{queue}.statuses"))
    out, error = shell(exit_code=ExitCode.UNREACHABLE)
    assert (out, len(error.splitlines())) == ("", 1)
    assert "belongs to an older aggregator, which sends no status; start it again" in error


def test_it_is_watched_until_the_run_is_over(aggregator: Transport, shell: Shell, monkeypatch: Any) -> None:
    """A broker that is away for a moment is said, and waited for."""
    monkeypatch.setattr(status_cli, "_EVERY_S", 0.0)
    has_said(aggregator, status())
    looks = iter(["look", "away", "finish"])

    def look(transport: Transport, topology: Topology, trust: Trust) -> Snapshot:
        match next(looks):
            case "away":
                raise BrokerUnreachable("connection lost")
            case "finish":
                has_said(aggregator, status("finished"))
        return take_snapshot(transport, topology, trust)

    monkeypatch.setattr(status_cli, "take_snapshot", look)
    lines = [json.loads(line) for line in shell("--watch", "--json")[0].splitlines()]
    assert [(line["state"], line["problem"]) for line in lines] == [
        ("gone", None),
        ("gone", "connection lost"),
        ("finished", None),
    ]


def test_many_who_look_at_once_all_find_it(aggregator: Transport, broker_url: str, queue: str) -> None:
    body = status()
    has_said(aggregator, body)
    found: list[object] = []

    def look() -> None:
        with closing(connect(BrokerSettings(broker=broker_url, queue=queue), role="test")) as own:
            found.extend(own.read_status() for _ in range(5))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [body] * 40


def test_an_upgraded_broker_loses_the_queues_of_earlier_versions(
    aggregator: Transport, shell: Shell, node: RabbitNode, queue: str
) -> None:
    """Once an aggregator of this version leads; until then, one of the earlier version may still be read from them."""
    outdated = {f"{queue}.status", f"{queue}.presence"}

    def make(link: Any) -> None:
        for name in outdated:
            link.channel("declare").queue_declare(name, durable=True, arguments={"x-max-length": 1})
        link.channel("declare").queue_bind(f"{queue}.presence", f"{queue}.in", "presence.*")

    aggregator._writer.call(make)
    aggregator.declare()
    assert outdated <= set(node.ctl("list_queues", "name").splitlines())
    aggregator.listen(Source.PRESENCE, Source.UPDATES)
    has_said(aggregator, status())
    assert "running" in shell()[0]
    assert wait_until(lambda: not outdated & set(node.ctl("list_queues", "name").splitlines()), timeout_s=SOON_S)
