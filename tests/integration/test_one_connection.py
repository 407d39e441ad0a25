"""Who receives nothing but models has one connection, reads and writes over it, and goes on after what befalls it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psutil
import pytest
from chaos.tcp_proxy import Proxy
from rabbitmq_node import RabbitNode

from broker.rabbitmq import transport as transport_module
from broker.rabbitmq.transport import RabbitMQ
from broker.settings import BrokerSettings
from broker.transport import Source

SOON_S = 30.0
PART = b"x" * 100_000

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def connect(node: RabbitNode, broker_url: str, queue: str) -> Iterator[Callable[..., RabbitMQ]]:
    made: list[RabbitMQ] = []

    def connect(role: str, url: str = broker_url) -> RabbitMQ:
        made.append(RabbitMQ(BrokerSettings(broker=url, queue=queue, heartbeat_s=4), role=role))
        return made[-1]

    yield connect
    for transport in made:
        transport.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "that did not come about"
        time.sleep(0.05)


def num_connections(port: int) -> int:
    """Of this process, to the broker."""
    return sum(1 for each in psutil.Process().net_connections() if each.raddr and each.raddr.port == port)


def test_a_worker_has_one_connection_and_the_aggregator_one_to_read_and_one_to_write(
    node: RabbitNode, connect: Callable[..., RabbitMQ]
) -> None:
    aggregator = connect("aggregator")
    aggregator.declare()
    aggregator.listen(Source.UPDATES)
    aggregator.broadcast(b"earlier")
    wait_for(lambda: num_connections(node.port) == 2)
    worker = connect("worker")
    worker.listen(Source.MODELS)
    aggregator.broadcast(b"model")
    wait_for(lambda: worker.receive(SOON_S).body == b"model")  # type: ignore[union-attr]
    worker.announce(b"here", worker="a")
    blob = worker.write_blob("t-one-connection", [PART, PART])
    worker.send(b"update", worker="a")
    update = aggregator.receive(SOON_S)
    assert update is not None
    assert update.body == b"update"
    assert [bytes(part) for part in worker.read_blob(blob, 2)] == [PART, PART]
    worker.delete_blobs([blob])
    assert num_connections(node.port) == 3


def test_a_connection_lost_in_a_round_costs_a_worker_neither_the_model_nor_its_update(
    node: RabbitNode, connect: Callable[..., RabbitMQ]
) -> None:
    aggregator = connect("aggregator")
    aggregator.declare()
    aggregator.listen(Source.UPDATES)
    with closing(Proxy(node.port)) as proxy:
        worker = connect("worker", f"amqp://guest:guest@127.0.0.1:{proxy.port}/")
        worker.listen(Source.MODELS)
        for number in range(3):
            aggregator.broadcast(b"model %d" % number)
            deadline = time.monotonic() + SOON_S
            while (head := worker.receive(SOON_S)) is None or head.body != b"model %d" % number:
                assert time.monotonic() < deadline
            proxy.cut()
            worker.send(b"update %d" % number, worker="a")
            update = aggregator.receive(SOON_S)
            assert update is not None
            assert update.body == b"update %d" % number
        worker.close()


def test_a_blob_is_read_to_its_end_after_the_broker_was_short_of_memory_for_longer_than_a_part_may_take(
    node: RabbitNode, connect: Callable[..., RabbitMQ], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "_BLOB_STALL_S", 2.0)
    aggregator, worker = connect("aggregator"), connect("worker")
    aggregator.declare()
    parts = [b"%d" % number + PART for number in range(40)]
    blob = aggregator.write_blob("t-read-in-an-alarm", parts)
    worker.listen(Source.MODELS)
    try:
        node.ctl("set_vm_memory_high_watermark", "absolute", "1000")
        deadline = time.monotonic() + SOON_S
        while not worker._reading().is_blocked:  # from its first sign of life on, the broker reads nothing more of it
            worker.announce(b"here", worker="a")
            assert time.monotonic() < deadline
            time.sleep(0.05)
        end = threading.Timer(6.0, lambda: node.ctl("set_vm_memory_high_watermark", "0.6"))
        end.start()
        begun = time.monotonic()
        assert [bytes(part) for part in worker.read_blob(blob, len(parts))] == parts
        assert time.monotonic() - begun > 3.0
        end.join()
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.6")
    worker.delete_blobs([blob])
