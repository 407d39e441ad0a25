"""A broker that dies while somebody logs in has not refused anybody."""

import socket
import threading
from collections.abc import Iterator

import pytest
from pika import frame, spec
from pydantic import SecretStr

from broker.rabbitmq.links.connection import connect
from broker.settings import BrokerSettings
from console.errors import BrokerRefused, BrokerUnreachable

_HEADER_BYTES = 8


def start() -> bytes:
    method = spec.Connection.Start(server_properties={}, mechanisms=b"PLAIN", locales=b"en_US")
    return bytes(frame.Method(0, method).marshal())


def close(code: int, text: str) -> bytes:
    return bytes(frame.Method(0, spec.Connection.Close(code, text, 0, 0)).marshal())


def answering(*answers: bytes) -> tuple[socket.socket, threading.Thread]:
    """A listener that gives one client these answers, one for each time that it speaks, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            for answer in answers:
                client.recv(65536)
                client.sendall(answer)
            client.recv(65536)

    thread = threading.Thread(target=serve, name="fake broker", daemon=True)
    thread.start()
    return listener, thread


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[BrokerSettings]:
    listener, thread = answering(*request.param)
    port = listener.getsockname()[1]
    yield BrokerSettings(broker=SecretStr(f"amqp://guest:guest@127.0.0.1:{port}/"))
    listener.close()
    thread.join(10)


@pytest.mark.parametrize("serve", [[], [start()]], ids=["at the greeting", "at the password"], indirect=True)
def test_a_connection_lost_while_logging_in_may_be_tried_again(serve: BrokerSettings) -> None:
    with pytest.raises(BrokerUnreachable):
        connect(serve.broker.get_secret_value(), serve, "test")


@pytest.mark.parametrize("serve", [[start(), close(403, "ACCESS_REFUSED - Login was refused")]], indirect=True)
def test_a_login_that_the_broker_refuses_is_final(serve: BrokerSettings) -> None:
    with pytest.raises(BrokerRefused, match="refuses the user or password"):
        connect(serve.broker.get_secret_value(), serve, "test")


@pytest.mark.parametrize("serve", [[start(), close(320, "CONNECTION_FORCED - shutdown")]], indirect=True)
def test_a_broker_that_shuts_down_while_somebody_logs_in_may_be_tried_again(serve: BrokerSettings) -> None:
    with pytest.raises(BrokerUnreachable):
        connect(serve.broker.get_secret_value(), serve, "test")


@pytest.mark.parametrize(
    "said",
    [
        "NOT_ALLOWED - access to vhost '/' refused for user 'guest': vhost '/' is down",
        "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (100) is reached",
    ],
)
def test_a_node_that_is_just_starting_or_full_may_be_tried_again(said: str) -> None:
    listener, thread = answering(start(), close(530, said))
    settings = BrokerSettings(broker=SecretStr(f"amqp://guest:guest@127.0.0.1:{listener.getsockname()[1]}/"))
    try:
        with pytest.raises(BrokerUnreachable, match="during login"):
            connect(settings.broker.get_secret_value(), settings, "test")
    finally:
        listener.close()
        thread.join(10)
