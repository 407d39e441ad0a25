"""What the broker does to us short of dying: each is waited for, said, and gone on from."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from chaos.tcp_proxy import Proxy
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker, NackError, StreamLostError
from pydantic import SecretStr
from rabbitmq_node import RabbitNode

from broker.rabbitmq.links import link
from broker.rabbitmq.transport import RabbitMQ
from broker.settings import BrokerSettings
from broker.transport import BlobNews, Source
from console.errors import BrokerRefused, BrokerUnreachable, QueueMissing
from console.watching import LinkChanged

SOON_S = 30.0
HOME_NODE_DOWN = ChannelClosedByBroker(
    404, "NOT_FOUND - home node 'a@b' of durable queue 't-half-made' in vhost '/' is down or inaccessible"
)
TIMED_OUT = ChannelClosedByBroker(
    404, "NOT_FOUND - failed to perform operation on queue 't-half-made' in vhost '/' due to timeout"
)
NO_REPLICA_YET = ChannelClosedByBroker(
    406, "PRECONDITION_FAILED - stream queue 't' in vhost '/' does not have a running replica on the local node"
)
SETTLED_S = 1.5
"""How long to watch that something does not happen."""


@pytest.fixture
def connect(node: RabbitNode, broker_url: str, queue: str) -> Iterator[Callable[..., RabbitMQ]]:
    made: list[RabbitMQ] = []

    def connect(role: str, on_link: Callable[[LinkChanged], None] = lambda change: None) -> RabbitMQ:
        settings = BrokerSettings(broker=broker_url, queue=queue, heartbeat_s=4)
        made.append(RabbitMQ(settings, role=role, on_link=on_link))
        return made[-1]

    yield connect
    for transport in made:
        transport.close()


@contextmanager
def in_background(work: Callable[[], None]) -> Iterator[threading.Event]:
    """Does some work in a thread; gives the event that is set when it is done."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        thread.join(SOON_S)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "that did not come about"
        time.sleep(0.05)


def said(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return any(text in record.getMessage() for record in caplog.records)


def test_a_node_that_is_away_is_passed_over_and_one_that_goes_is_left_for_the_next(
    node: RabbitNode, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy stands in for each node of a cluster."""
    with closing(Proxy(node.port)) as one, closing(Proxy(node.port)) as other, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        ports = (nobody.getsockname()[1], one.port, other.port)
        settings = BrokerSettings(broker=",".join(f"amqp://guest:guest@127.0.0.1:{port}/" for port in ports))
        for _ in range(60):  # in whatever order each of them asks
            if said(caplog, f"127.0.0.1:{ports[0]}/ (Connection refused); trying the next address"):
                break
            with closing(RabbitMQ(settings.model_copy(update={"connect_timeout_s": 0}), role="a")) as transport:
                transport.declare()
        assert said(caplog, f"127.0.0.1:{ports[0]}/ (Connection refused); trying the next address")
        assert "guest:guest" not in caplog.text
        with closing(RabbitMQ(settings, role="a")) as transport:
            transport.listen(Source.UPDATES)
            for proxy in (one, other, one):
                proxy.cut()
            transport.send(b"over another node", worker="a")
            delivery = transport.receive(SOON_S)
            assert delivery is not None
            assert delivery.body == b"over another node"
            transport.remove()


def test_a_login_that_all_nodes_refuse_is_final(node: RabbitNode, queue: str) -> None:
    with closing(Proxy(node.port)) as other:
        urls = [f"amqp://guest:wrong@127.0.0.1:{port}/" for port in (node.port, other.port)]
        with closing(RabbitMQ(BrokerSettings(broker=",".join(urls), queue=queue), role="a")) as transport:
            with pytest.raises(BrokerRefused, match="refuses the user or password") as caught:
                transport.declare()
            assert "wrong" not in str(caught.value)


def test_a_worker_waits_while_the_broker_is_short_of_memory_and_says_so(
    node: RabbitNode, connect: Callable[..., RabbitMQ], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[LinkChanged] = []
    aggregator, worker = connect("aggregator"), connect("worker", on_link=told.append)
    aggregator.declare()
    aggregator.listen(Source.UPDATES)
    worker.send(b"before", worker="a")
    try:
        node.ctl("set_vm_memory_high_watermark", "absolute", "1000")
        with in_background(lambda: worker.send(b"after", worker="a")) as is_sent:
            wait_for(lambda: said(caplog, "short of memory or disk"))
            assert not is_sent.is_set()
            assert "short of memory or disk" in (told[-1].problem or "")
            node.ctl("set_vm_memory_high_watermark", "0.6")
            assert is_sent.wait(SOON_S)
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.6")
    bodies = [aggregator.receive(SOON_S), aggregator.receive(SOON_S)]
    assert [delivery.body for delivery in bodies if delivery] == [b"before", b"after"]
    wait_for(lambda: told[-1].problem is None)


def test_the_aggregator_still_acks_while_the_broker_is_short_of_memory(
    node: RabbitNode, connect: Callable[[str], RabbitMQ], queue: str
) -> None:
    aggregator = connect("aggregator")
    aggregator.declare()
    aggregator.send(b"one", worker="a")
    aggregator.listen(Source.UPDATES)
    delivery = aggregator.receive(SOON_S)
    assert delivery is not None
    try:
        node.ctl("set_vm_memory_high_watermark", "absolute", "1000")
        aggregator.ack([delivery])
        wait_for(lambda: f"{queue}\t0" in node.ctl("list_queues", "--quiet", "name", "messages"))
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.6")


def test_a_worker_backs_off_from_a_full_queue_and_goes_on(
    node: RabbitNode, connect: Callable[[str], RabbitMQ], queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    aggregator, worker = connect("aggregator"), connect("worker")
    aggregator.declare()
    policy = ("set_policy", "full", f"^{queue}$", '{"max-length": 1}', "--apply-to", "queues")
    node.ctl(*policy)
    try:
        worker.send(b"fills it", worker="a")
        worker.send(b"may still pass", worker="a")  # the limit is noticed one message late
        with in_background(lambda: worker.send(b"waits", worker="a")) as is_sent:
            wait_for(lambda: said(caplog, "the queue is full"))
            assert not is_sent.is_set()
            aggregator.listen(Source.UPDATES)
            for _ in range(2):
                delivery = aggregator.receive(SOON_S)
                assert delivery is not None
                aggregator.ack([delivery])
            assert is_sent.wait(SOON_S)
    finally:
        node.ctl("clear_policy", "full")


def test_updates_of_a_channel_that_the_ack_timeout_closed_come_again(
    node: RabbitNode, connect: Callable[[str], RabbitMQ], caplog: pytest.LogCaptureFixture
) -> None:
    setting = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    )
    node.ctl("eval", setting.format(1000, 500))
    try:
        aggregator = connect("aggregator")
        aggregator.declare()
        aggregator.send(b"held too long", worker="a")
        aggregator.listen(Source.UPDATES)
        first = aggregator.receive(SOON_S)
        assert first is not None
        wait_for(lambda: said(caplog, "reconnecting"))
    finally:
        node.ctl("eval", setting.format(7_200_000, 60_000))
    again = aggregator.receive(SOON_S)
    assert again is not None
    assert again.body == b"held too long"
    assert again.session != first.session


def test_the_aggregator_is_told_when_somebody_deletes_its_queue(
    node: RabbitNode, connect: Callable[[str], RabbitMQ], queue: str
) -> None:
    aggregator, worker = connect("aggregator"), connect("worker")
    aggregator.declare()
    aggregator.listen(Source.UPDATES)
    node.ctl("delete_queue", queue)
    with pytest.raises(QueueMissing):
        aggregator.receive(SOON_S)
    with in_background(lambda: worker.send(b"waited", worker="a")) as is_sent:
        assert not is_sent.wait(SETTLED_S)
        successor = connect("successor")
        successor.declare()
        assert is_sent.wait(SOON_S)
    successor.listen(Source.UPDATES)
    delivery = successor.receive(SOON_S)
    assert delivery is not None
    assert delivery.body == b"waited"


def test_a_worker_subscribes_again_when_the_deleted_stream_is_back(
    node: RabbitNode, connect: Callable[[str], RabbitMQ], queue: str
) -> None:
    aggregator, worker = connect("aggregator"), connect("worker")
    aggregator.declare()
    worker.listen(Source.MODELS)
    aggregator.broadcast(b"one")
    assert worker.receive(SOON_S) is not None
    node.ctl("delete_queue", f"{queue}.models")
    with pytest.raises(QueueMissing):
        aggregator.broadcast(b"two")
    aggregator.declare()
    aggregator.broadcast(b"three")
    delivery = worker.receive(SOON_S)
    assert delivery is not None
    assert delivery.body == b"three"


def test_a_stream_cut_by_retention_still_gives_the_newest_model(connect: Callable[[str], RabbitMQ]) -> None:
    aggregator, slow = connect("aggregator"), connect("slow")
    aggregator.declare()
    slow.listen(Source.MODELS)
    filling = bytes(8 * 2**20 - 16)
    for number in range(40):  # 320 MiB through a stream that keeps 128
        aggregator.broadcast(number.to_bytes(16, "little") + filling)
    late = connect("late")
    late.listen(Source.MODELS)
    for reader in (slow, late):
        number = -1
        while number < 39:
            delivery = reader.receive(SOON_S)
            assert delivery is not None
            number = int.from_bytes(bytes(delivery.body[:16]), "little")


def test_a_fault_at_a_queue_is_waited_out_over_the_same_connection_and_costs_no_lead(
    connect: Callable[[str], RabbitMQ], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    declare, faults = BlockingChannel.queue_declare, [HOME_NODE_DOWN, TIMED_OUT]

    def failing(channel: BlockingChannel, queue: str, *args: Any, **kwargs: Any) -> Any:
        if faults and queue.endswith(".models"):
            raise faults.pop()
        return declare(channel, queue, *args, **kwargs)

    monkeypatch.setattr(link, "_FAULT_PAUSE_S", 0.1)
    aggregator = connect("aggregator")
    assert aggregator.lead()
    monkeypatch.setattr(BlockingChannel, "queue_declare", failing)
    aggregator.declare()
    aggregator.broadcast(b"still leads")
    assert faults == []
    assert said(caplog, "due to timeout (it is there, and so is the broker; a node that it needs is down")


@pytest.mark.parametrize("num_refusals", [1, 4], ids=["then at the same node", "then over another connection"])
@pytest.mark.parametrize("fault", [NO_REPLICA_YET, TIMED_OUT], ids=["no copy yet", "timed out"])
def test_a_blob_that_a_node_cannot_give_just_now_is_asked_for_again(
    connect: Callable[[str], RabbitMQ],
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    fault: ChannelClosedByBroker,
    num_refusals: int,
) -> None:
    """A stream that was made just now has no copy at some nodes yet; who gave up would lose a model or an update."""
    consume, refusals = BlockingChannel.basic_consume, [fault] * num_refusals

    def refused(channel: BlockingChannel, name: str, *args: Any, **kwargs: Any) -> Any:
        if refusals and ".blob." in name:
            raise refusals.pop()
        return consume(channel, name, *args, **kwargs)

    aggregator, worker = connect("aggregator"), connect("worker")
    aggregator.declare()
    blob = worker.write_blob(f"{queue}.blob.x", [b"a", b"b"])
    worker.send(b"update", worker="a")
    aggregator.listen(Source.UPDATES)
    monkeypatch.setattr(BlockingChannel, "basic_consume", refused)
    assert [bytes(part) for part in aggregator.read_blob(blob, 2)] == [b"a", b"b"]
    assert not refusals

    refusals += [fault] * num_refusals
    parts: list[bytes] = []
    while len(parts) < 2:
        delivery = aggregator.receive(SOON_S)
        assert delivery is not None
        if delivery.source is Source.UPDATES:  # comes again over each connection
            aggregator.fetch(blob, 2)
        elif delivery.news is None:
            parts.append(bytes(delivery.body))
        else:
            assert delivery.news is BlobNews.INTERRUPTED
    assert parts == [b"a", b"b"]
    aggregator.delete_blobs([blob])


def test_after_a_refusal_a_message_goes_over_a_new_channel(
    connect: Callable[[str], RabbitMQ], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one that knew the queue's leader before its node was killed, RabbitMQ refuses everything from then on."""
    publish, stale = BlockingChannel.basic_publish, set()

    def refused_on_the_first(channel: BlockingChannel, *args: Any, **kwargs: Any) -> None:
        if not stale:
            stale.add(id(channel))
            kept.append(channel)
        if id(channel) in stale:
            raise NackError([])
        publish(channel, *args, **kwargs)

    kept: list[BlockingChannel] = []  # so that no other channel has the number of the first
    aggregator, worker = connect("aggregator"), connect("worker")
    aggregator.declare()
    aggregator.listen(Source.UPDATES)
    monkeypatch.setattr(BlockingChannel, "basic_publish", refused_on_the_first)
    worker.send(b"over another channel", worker="a")
    delivery = aggregator.receive(SOON_S)
    assert delivery is not None
    assert delivery.body == b"over another channel"
    assert not kept[0].is_open


def test_who_looks_at_a_queue_for_which_the_broker_has_no_answer_is_told_so_and_can_leave(
    connect: Callable[[str], RabbitMQ], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    onlooker = connect("onlooker")
    onlooker.queued([])
    monkeypatch.setattr(link, "_CLOSING_S", 0.5)
    monkeypatch.setattr(BlockingChannel, "queue_declare", lambda *args, **kwargs: answers.wait(SOON_S))
    try:
        with pytest.raises(BrokerUnreachable, match="a node of its cluster is down"):
            onlooker.read_status(within_s=2.0)
        begun_at = time.monotonic()
        onlooker.close()
        assert time.monotonic() - begun_at < 5
    finally:
        answers.set()


@pytest.mark.parametrize(
    "fault",
    [
        ConnectionClosedByBroker(541, "INTERNAL_ERROR"),
        HOME_NODE_DOWN,
        TIMED_OUT,
    ],
)
def test_a_blob_whose_name_the_broker_cannot_use_any_more_gets_the_next_one(
    fault: AMQPError,
    connect: Callable[[str], RabbitMQ],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As RabbitMQ 3.10 does with a stream that was half made when it was killed: it closes connection or channel."""
    declare = BlockingChannel.queue_declare

    def failing(channel: BlockingChannel, queue: str, *args: Any, **kwargs: Any) -> Any:
        if queue == "t-half-made":
            channel.connection.close()
            raise fault
        return declare(channel, queue, *args, **kwargs)

    monkeypatch.setattr(BlockingChannel, "queue_declare", failing)
    writer, reader = connect("writer"), connect("reader")
    reader.declare()
    reader.listen(Source.UPDATES)
    name = writer.write_blob("t-half-made", [b"part one", b"part two"])
    assert name == "t-half-made.1"
    assert [bytes(part) for part in reader.read_blob(name, 2)] == [b"part one", b"part two"]
    assert said(caplog, "stream t-half-made cannot be used any more")
    writer.delete_blobs([name])


@pytest.mark.parametrize(("of_cluster", "suffix"), [(True, ".1"), (False, "")])
def test_a_stream_that_a_lost_node_left_half_made_is_deleted_on_one_broker_and_left_alone_on_a_cluster(
    node: RabbitNode, queue: str, of_cluster: bool, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster, RabbitMQ 4 takes a minute to say that it cannot delete it."""
    declare, made = BlockingChannel.queue_declare, list[str]()

    def failing(channel: BlockingChannel, queue: str, *args: Any, **kwargs: Any) -> Any:
        result = declare(channel, queue, *args, **kwargs)
        made.append(queue)
        if made == [blob]:
            channel.connection.close()
            raise StreamLostError("the node was killed")
        return result

    blob = f"{queue}.blob.t"
    addresses = [node.url, node.url.replace("127.0.0.1", "localhost")]
    settings = BrokerSettings(broker=SecretStr(",".join(addresses[: 1 + of_cluster])), queue=queue)
    with closing(RabbitMQ(settings, role="aggregator")) as aggregator:
        aggregator.declare()
        monkeypatch.setattr(BlockingChannel, "queue_declare", failing)
        assert aggregator.write_blob(blob, [b"part one"]) == f"{blob}{suffix}"
        assert made == [blob, f"{blob}{suffix}"]
        aggregator.delete_blobs([blob, f"{blob}.1"])


def test_who_reads_a_blob_that_does_not_end_hears_at_once_that_it_should_give_up(
    connect: Callable[[str], RabbitMQ],
) -> None:
    writer, reader = connect("writer"), connect("reader")
    reader.declare()
    reader.listen(Source.MODELS)
    writer.write_blob("t-endless", [b"part one"])
    try:
        parts = reader.read_blob("t-endless", 2)
        assert bytes(next(parts)) == b"part one"
        begun_at = time.monotonic()
        reader.give_up_waiting()
        with pytest.raises(BrokerUnreachable):
            next(parts)
        assert time.monotonic() - begun_at < 2
    finally:
        writer.delete_blobs(["t-endless"])


def test_what_was_confirmed_survives_the_kill_of_the_broker(mortal_node: RabbitNode, queue: str) -> None:
    settings = BrokerSettings(broker=mortal_node.url, queue=queue, heartbeat_s=4)
    told: list[LinkChanged] = []
    with (
        closing(RabbitMQ(settings, role="aggregator", on_link=told.append)) as aggregator,
        closing(RabbitMQ(settings, role="a")) as worker,
    ):
        _survive_the_kill(mortal_node, aggregator, worker)
    assert [change.name for change in told if change.problem and "trying again" in change.problem] != []
    assert told[-1].problem is None


def _survive_the_kill(node: RabbitNode, aggregator: RabbitMQ, worker: RabbitMQ) -> None:
    aggregator.declare()
    aggregator.broadcast(b"model")
    aggregator.write_blob("t-survives", [b"part one", b"part two"])
    for number in range(3):
        worker.send(bytes([number]), worker="a")
    node.kill()
    node.start()
    worker.listen(Source.MODELS)
    aggregator.listen(Source.UPDATES)
    head = worker.receive(SOON_S)
    assert head is not None
    assert head.body == b"model"
    received = [aggregator.receive(SOON_S) for _ in range(3)]
    assert {bytes(delivery.body) for delivery in received if delivery} == {b"\0", b"\1", b"\2"}
    assert [bytes(part) for part in worker.read_blob("t-survives", 2)] == [b"part one", b"part two"]
    aggregator.delete_blobs(["t-survives"])
