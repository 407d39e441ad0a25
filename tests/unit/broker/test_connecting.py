"""What is said before a connection is made: that an unencrypted one is read on its way."""

import logging
import socket

import pytest
from pydantic import SecretStr

from broker import connecting
from broker.connecting import _warn_of_listeners
from broker.settings import BrokerSettings


@pytest.fixture(autouse=True)
def a_new_process_that_connects_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    _warn_of_listeners.cache_clear()
    monkeypatch.setattr(connecting, "RabbitMQ", lambda settings, **options: None)


def warnings_of(url: str, caplog: pytest.LogCaptureFixture, *, is_trusted: bool = False) -> list[str]:
    """What a process warns of that connects twice."""
    for _ in range(2):
        connecting.connect(BrokerSettings(broker=SecretStr(url), trusted_network=is_trusted), role="test")
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("host", ["broker.example", "broker", "10.0.0.7", "[2001:db8::1]", "localhost.example"])
def test_a_password_in_clear_to_another_machine_is_warned_of_once(host: str, caplog: pytest.LogCaptureFixture) -> None:
    (told,) = warnings_of(f"amqp://site:Hunter2@{host}:5672/", caplog)
    assert told.startswith(f"amqp://site@{host}:5672/: without TLS,")
    assert "amqps://" in told
    assert "--trusted-network" in told
    assert "Hunter2" not in told


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "[::1]", "box", "box.example", "BOX"])
def test_this_machine_is_no_other(host: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.example")
    assert not warnings_of(f"amqp://site:Hunter2@{host}:5672/", caplog)


def test_with_tls_or_on_a_network_that_is_trusted_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert not warnings_of("amqps://site:Hunter2@broker.example:5671/", caplog)
    assert not warnings_of("amqp://site:Hunter2@broker:5672/", caplog, is_trusted=True)
