"""What is set of pika that is not of its interface: there, it is used; elsewhere, everything works without."""

from types import SimpleNamespace

import pytest
from rabbitmq_node import RabbitNode

from broker.rabbitmq.links import sockets
from broker.rabbitmq.links.connection import connect
from broker.settings import BrokerSettings


def test_a_connection_takes_much_at_once_off_its_socket(node: RabbitNode) -> None:
    with connect(node.url, BrokerSettings(broker=node.url), "test") as connection:
        transport = connection._impl._transport
        assert (transport._MAX_RECV_BYTES, transport._MAX_CONSUME_BYTES) == (2**17, 2**19)


def test_messages_of_any_size_leave_whole_and_in_their_order(node: RabbitNode) -> None:
    sizes = [0, 1, 40_000, 2**16, 300_000, 3, 12_000_000, 5]
    with connect(node.url, BrokerSettings(broker=node.url), "test") as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        queue = channel.queue_declare("", exclusive=True).method.queue
        for number, size in enumerate(sizes):
            channel.basic_publish("", queue, bytes([number]) * size)
        read = channel.consume(queue, auto_ack=True, inactivity_timeout=30)
        bodies = [body for _, (_, _, body) in zip(sizes, read, strict=False)]
        assert bodies == [bytes([number]) * size for number, size in enumerate(sizes)]


@pytest.mark.parametrize("other", [SimpleNamespace(), SimpleNamespace(_impl=SimpleNamespace(_transport=None))])
def test_another_pika_is_left_as_it_is(other: SimpleNamespace) -> None:
    before = repr(other)
    assert sockets.tuned(other) is other  # type: ignore[arg-type]
    assert repr(other) == before


def test_without_it_messages_come_all_the_same(node: RabbitNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_AT_ONCE_BYTES", {"_NOT_OF_PIKA": 1})
    monkeypatch.setattr(sockets, "_PLAIN", "_NotOfPika")
    with connect(node.url, BrokerSettings(broker=node.url), "test") as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, bytes(300_000))
        _, _, body = next(channel.consume(queue, inactivity_timeout=30))
        assert body == bytes(300_000)
