"""Who is answered over HTTP: by which name, with which token, and for how long one is waited for."""

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage

import pytest
from rabbitmq_node import free_port

from console.errors import SettingsError
from console.serving import Health, new_registry, server
from console.serving.metrics import served
from console.settings import MetricsSettings, read_settings, settings_of

TOKEN = "0123456789abcdef-token"
SOON_S = 20.0


@contextmanager
def metrics(**settings: object) -> Iterator[int]:
    """The port at which the metrics of this process are served."""
    port = free_port()
    with served(
        new_registry(), settings_of(MetricsSettings, {"metrics_port": port} | settings), Health(hung_after_s=3600)
    ):
        yield port


@dataclass(frozen=True)
class Answer:
    """What came back, read to its end."""

    status: int
    headers: HTTPMessage
    text: str


def ask(port: int, path: str = "/metrics", *, host: str | None = "localhost", **headers: str) -> Answer:
    connection = HTTPConnection("127.0.0.1", port, timeout=SOON_S)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in ({} if host is None else {"Host": host}).items() | headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    answer = Answer(response.status, response.headers, response.read().decode())
    connection.close()
    return answer


def test_metrics_are_given_to_whoever_asks_on_this_machine() -> None:
    with metrics() as port:
        response = ask(port)
        assert response.status == 200
        assert "process_cpu_seconds_total" in response.text
        assert "server" not in response.headers


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:9109", "[::1]:9109", "10.1.2.3", "box"]
)
def test_a_name_of_this_machine_and_an_address_are_answered(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Box")
    with metrics() as port:
        assert ask(port, host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9109", "localhost.evil.example", "x@localhost", "aggregator", "1.2.3.4.5", "", None],
)
def test_a_foreign_name_is_not_answered_on_any_address(host: str | None) -> None:
    """A page from elsewhere that gave this address a name of its own must not read it in its reader's browser."""
    with metrics(metrics_host="0.0.0.0", trusted_network=True) as port:
        response = ask(port, host=host)
        assert response.status == 400
        assert "process_cpu" not in response.text


def test_a_name_that_is_allowed_is_answered() -> None:
    with metrics(allowed_hosts="aggregator, Prometheus.example") as port:
        assert [ask(port, host=host).status for host in ("aggregator:9109", "prometheus.example", "other")] == [
            200,
            200,
            400,
        ]
    with metrics(allowed_hosts="*") as port:
        assert ask(port, host="other").status == 200


@pytest.mark.parametrize("given", ["a b", "http://a", "a:80", "a,,b", "*.example"])
def test_what_is_no_host_s_name_is_told(given: str) -> None:
    with pytest.raises(SettingsError, match=r"--allowed-hosts: .* is no host's name"):
        read_settings(MetricsSettings, ["--allowed-hosts", given], prog="fl-test", description="", examples="")


def test_with_a_token_only_those_who_show_it_are_answered() -> None:
    with metrics(token=TOKEN) as port:
        refused = ask(port)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "process_cpu" not in refused.text
        for shown in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ", f"Basic {TOKEN}", "Bearer grüße"):
            assert ask(port, Authorization=shown.encode().decode("latin-1")).status == 401
        assert ask(port, Authorization=f"Bearer {TOKEN}").status == 200
        assert ask(port, Authorization=f"Bearer {TOKEN}", host="evil.example").status == 400


def test_a_token_in_the_address_becomes_a_cookie_that_scripts_and_other_sites_do_not_get() -> None:
    with metrics(token=TOKEN) as port:
        assert ask(port, f"/metrics?token={TOKEN}x").status == 401
        given = ask(port, f"/metrics?a=%22%3E1&token={TOKEN}")
        assert (given.status, given.headers["cache-control"]) == (200, "no-store")
        assert 'content="0; url=?a=%22%3E1"' in given.text
        cookie, *properties = given.headers["set-cookie"].split("; ")
        assert {"httponly", "samesite=strict", "path=/"} == {word.lower() for word in properties}
        assert TOKEN not in given.headers["set-cookie"]
        assert ask(port, Cookie=cookie).status == 200
        assert ask(port, Cookie=re.sub("=.*", f"={TOKEN}", cookie)).status == 401


def test_a_token_is_neither_short_nor_told() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(MetricsSettings, ["--token", "hunter2"], prog="fl-test", description="", examples="")
    assert "--token: " in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "num_warnings"),
    [
        ({"metrics_host": "0.0.0.0"}, 1),
        ({"metrics_host": "0.0.0.0", "token": TOKEN}, 0),
        ({"metrics_host": "0.0.0.0", "trusted_network": True}, 0),
        ({"metrics_host": "127.0.0.1"}, 0),
        ({"metrics_host": "localhost"}, 0),
    ],
)
def test_an_address_open_to_other_machines_is_told_once(
    settings: dict[str, object], num_warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with metrics(**settings):
        pass
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == num_warnings
    assert all("whoever reaches that address is answered; --token" in line for line in told)


def test_connections_without_a_request_are_closed_and_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_REQUEST_S", 0.5)
    with metrics() as port, ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SOON_S)) for _ in range(400)
        ]
        for half in silent[::2]:
            half.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n")
        assert ask(port).status == 200
        assert {half.recv(1) for half in silent} == {b""}


def test_a_connection_that_was_answered_waits_no_longer_for_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_REQUEST_S", 0.5)
    with metrics() as port, socket.create_connection(("127.0.0.1", port), timeout=SOON_S) as kept:
        kept.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\nGET /me")
        received = b""
        while piece := kept.recv(65536):
            received += piece
        assert received.startswith(b"HTTP/1.1 200")


def test_more_connections_than_the_most_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 3)
    with metrics() as port, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SOON_S))
        assert ask(port).status == 503
