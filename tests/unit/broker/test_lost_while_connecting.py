"""A broker that is killed just after a connection to it was made, or hangs, and before pika has looked at that."""

import errno
import os
import socket

import pytest
from pydantic import SecretStr

from broker.rabbitmq.links.connection import connect
from broker.settings import BrokerSettings
from console import BrokerUnreachable


def test_a_socket_lost_before_pika_looks_at_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """pika makes a ValueError of it, which ended the aggregator with a traceback."""

    def lost(_: socket.socket) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(socket.socket, "getpeername", lost)
        address = f"amqp://guest:guest@127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(BrokerUnreachable, match="was lost while connecting"):
            connect(address, BrokerSettings(broker=SecretStr(address)), "test")


def test_a_node_that_takes_connections_and_never_answers_is_given_up_soon() -> None:
    """As one does that hangs: the kernel accepts for it. What pika raises then is none of its connection errors."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"amqp://guest:guest@127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(BrokerUnreachable, match="does not answer"):
            connect(address, BrokerSettings(broker=SecretStr(address)), "test", patience_s=0.2)
