"""Whole runs with exactly the permissions that are printed, beside an attacker who has another site's password."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest
from broker_users import Users
from federation import Command, Federation, run_command
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from rabbitmq_node import RabbitNode

from broker.rabbitmq.queues import BLOB
from broker.wire.topology import Topology
from console.errors import ExitCode

pytest_plugins = ["federation_plugin"]

QUEUE = "updates"
TOPOLOGY = Topology(QUEUE)
ROUNDS = 3
SITES = ("hospital-a", "hospital-b")
BLOBS = ("--inline-cap", "0")
PARTS = ("--part-bytes", "8")
RUN = ("--rounds", str(ROUNDS), "--quorum", str(len(SITES)), *BLOBS, *PARTS)

Attack = Callable[[BlockingChannel], object]


@pytest.fixture(scope="module")
def users(node: RabbitNode) -> Users:
    return Users(node, QUEUE)


@pytest.fixture
def guarded(tmp_path: Path, users: Users) -> Iterator[Federation]:
    """A federation on these users' queue; the test itself looks at it as the aggregator."""
    with Federation(tmp_path, broker=users.url("aggregator"), queue=QUEUE) as running:
        yield running


def started_workers(federation: Federation, users: Users) -> list[Command]:
    return [federation.worker(name, "--broker", users.url(name), *BLOBS) for name in SITES]


def publish(exchange: str, key: str, *copies: str) -> Attack:
    """A message that also claims, in its headers, to be a dead letter of hospital-a's."""
    headers = {"part": 0, "sender": "hospital-a", "reason": "none", **({"CC": [*copies]} if copies else {})}
    properties = pika.BasicProperties(headers=headers, delivery_mode=2)
    return lambda channel: channel.basic_publish(exchange, key, b"forgery!", properties, mandatory=True)


def attacks_on(run_id: str) -> dict[str, Attack]:
    """What hospital-c tries in this run."""
    theirs = [TOPOLOGY.update_blob(name, run_id, number) for name in SITES for number in range(1, ROUNDS + 1)]
    models = [TOPOLOGY.model_blob(run_id, number) for number in range(1, ROUNDS + 2)]
    own = TOPOLOGY.update_blob("hospital-c", run_id, 1)

    def bind(channel: BlockingChannel) -> None:
        channel.queue_declare(own, durable=True, arguments=BLOB)
        channel.queue_bind(own, TOPOLOGY.inbound, "#")

    return {
        "copy into updates": publish(TOPOLOGY.inbound, "update.hospital-c", "update.hospital-a", "partial.0"),
        "copy into blobs": publish(
            TOPOLOGY.inbound, "presence.hospital-c", *map(TOPOLOGY.blob_key, [*theirs, *models])
        ),
        "forge a head": publish("", TOPOLOGY.models),
        "speak as another": publish(TOPOLOGY.inbound, "update.hospital-a"),
        "send a partial sum": publish(TOPOLOGY.inbound, "partial.0"),
        "plant a dead letter": publish(TOPOLOGY.dead_letters, "set-aside"),
        "read all": bind,
        **{f"hold {name}": (lambda channel, name=name: channel.queue_declare(name, exclusive=True)) for name in theirs},
        **{f"delete {name}": (lambda channel, name=name: channel.queue_delete(name)) for name in [*theirs, *models]},
        **{f"fill {name}": publish("", name) for name in [*theirs, *models]},
    }


COPIES = {"copy into updates", "copy into blobs"}
"""What RabbitMQ 3.10 allows: it compares the key with the topic permission, and not, as 4.0 does, the ``CC`` header."""


@contextmanager
def attacked(users: Users, run_id: str) -> Iterator[set[str]]:
    """hospital-c tries all, over and over, and at least once; what the broker allowed."""
    attacks, allowed, is_over = attacks_on(run_id), set[str](), threading.Event()

    def try_all() -> None:
        for name, attack in attacks.items():
            try:
                with users.channel("hospital-c") as channel:
                    attack(channel)
                allowed.add(name)
            except AMQPError:
                continue

    def attack() -> None:
        try_all()
        while not is_over.is_set():
            try_all()

    thread = threading.Thread(target=attack, name="attacker")
    thread.start()
    try:
        yield allowed
    finally:
        is_over.set()
        thread.join()


def test_with_these_permissions_alone_a_run_ends_with_the_digest_of_the_undisturbed_one(
    guarded: Federation, users: Users, undisturbed_sha256: Callable[..., str]
) -> None:
    expected = undisturbed_sha256(*SITES, rounds=ROUNDS)
    guarded.gates.hold("hospital-a", 1)
    aggregator = guarded.aggregator(*RUN)
    workers = started_workers(guarded, users)
    head = guarded.wait_for_head(1)
    with attacked(users, head.run_id) as allowed:
        guarded.gates.wait_for("hospital-a", 1)
        guarded.gates.release("hospital-a", 1)
        codes = [each.ends() for each in (aggregator, *workers)]

    assert codes == [0, 0, 0], aggregator.tail
    assert allowed in (COPIES, set())
    refused = {"hospital-c"} if allowed else set()
    assert guarded.summary["final"]["model_sha256"] == expected
    assert guarded.folded() == [(number, name) for number in range(1, ROUNDS + 1) for name in SITES]
    assert {worker for (worker,) in guarded.rows("SELECT worker FROM updates WHERE verdict = 'refused'")} == refused
    listed = _run(guarded, "operations.dead_cli", "list", "--json", broker=users.url("aggregator"))
    assert {json.loads(line)["worker"] for line in listed.splitlines() if line.startswith("{")} == refused
    assert json.loads(_run(guarded, "operations.status_cli", "--json", broker=users.url("onlooker")))["status"]
    assert "is reachable" in _run(guarded, "worker.cli", "--check", broker=users.url("hospital-a"))


def test_with_these_permissions_partial_aggregators_can_do_their_work(
    guarded: Federation, users: Users, undisturbed_sha256: Callable[..., str]
) -> None:
    expected = undisturbed_sha256(*SITES, rounds=ROUNDS)
    own = ("--broker", users.url("partial"))
    partials = [guarded.partial(shard, 2, *own, *BLOBS) for shard in (0, 1)]
    for partial in partials:
        partial.says("partial aggregator of shard")
    aggregator = guarded.aggregator(*RUN, "--shards", "2")
    workers = started_workers(guarded, users)

    assert [each.ends() for each in (aggregator, *partials, *workers)] == [0] * 5, aggregator.tail
    assert guarded.summary["final"]["model_sha256"] == expected
    assert guarded.folded() == [(number, name) for number in range(1, ROUNDS + 1) for name in SITES]


def _run(federation: Federation, command: str, *flags: str, broker: str) -> str:
    done = run_command(
        command,
        *flags,
        "--queue",
        QUEUE,
        "--log-level",
        "ERROR",
        folder=federation.folder,
        env={"FEDMQ_BROKER": broker},
    )
    assert done.returncode == ExitCode.OK, done.stderr
    return done.stdout
