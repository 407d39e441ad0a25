"""What probes are told: a service that hangs is told from one that works, or waits for its broker."""

from collections.abc import Callable
from http.client import HTTPConnection

import pytest
from rabbitmq_node import free_port

from console import LinkChanged
from console.serving import ALIVE, READY, Health, new_registry
from console.serving.metrics import served
from console.settings import MetricsSettings, settings_of

HUNG_AFTER_S = 60.0


class Clock:
    """One that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Leads:
    """An event by which a service is ready."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(hung_after_s=HUNG_AFTER_S, clock=clock)


def told(health: Health, path: str) -> tuple[int, str]:
    answer = health.answer(path)
    return answer.status_code, bytes(answer.body).decode().strip()


def test_a_process_that_starts_is_alive_and_not_ready(health: Health) -> None:
    assert told(health, ALIVE) == (200, "alive")
    assert told(health, READY) == (503, "is starting")


def test_it_is_ready_from_the_event_on_that_makes_it_so(health: Health) -> None:
    take = health.watcher({Leads: "leads"})
    take(object())
    assert told(health, READY)[0] == 503
    take(Leads())
    assert told(health, READY) == (200, "leads")


def test_a_service_that_beats_no_more_is_neither_alive_nor_ready(health: Health, clock: Clock) -> None:
    health.ready("leads")
    clock.now = HUNG_AFTER_S
    assert told(health, ALIVE)[0] == told(health, READY)[0] == 200
    clock.now += 1
    for path in (ALIVE, READY):
        assert told(health, path) == (503, "the service was last heard of 61 s ago; --hung-after-s is 60")


@pytest.mark.parametrize("sign", [Health.beat, lambda health: health.watcher({})(object())])
def test_any_sign_of_its_own_thread_shows_that_it_lives(
    sign: Callable[[Health], None], health: Health, clock: Clock
) -> None:
    for _ in range(3):
        clock.now += HUNG_AFTER_S - 1
        sign(health)
    assert told(health, ALIVE)[0] == 200


def test_a_service_that_waits_for_its_broker_is_alive_for_as_long_as_that_takes(health: Health, clock: Clock) -> None:
    health.ready("connected")
    health.on_link(LinkChanged(name="writer", problem="no broker"))
    health.on_link(LinkChanged(name="reader", problem="no broker either"))
    clock.now = 100 * HUNG_AFTER_S
    assert told(health, ALIVE)[0] == 200
    assert told(health, READY) == (503, "reader: no broker either; writer: no broker")

    health.on_link(LinkChanged(name="writer", problem=None))
    assert told(health, READY) == (503, "reader: no broker either")
    health.on_link(LinkChanged(name="reader", problem=None))
    assert told(health, READY) == (200, "connected")
    clock.now += HUNG_AFTER_S + 1  # the time of silence begins with the end of the outage
    assert told(health, ALIVE)[0] == 503


def test_probes_are_answered_beside_the_metrics_and_without_the_token() -> None:
    port = free_port()
    settings = settings_of(MetricsSettings, {"metrics_port": port, "token": "0123456789abcdef-token"})
    health = Health(hung_after_s=HUNG_AFTER_S)
    with served(new_registry(), settings, health):
        assert [_status(port, path) for path in (ALIVE, READY, "/metrics", "/healthz/x")] == [200, 503, 401, 401]
        health.ready("leads")
        assert _status(port, READY) == 200
        assert _status(port, ALIVE, host="evil.example") == 400


def _status(port: int, path: str, *, host: str = "127.0.0.1") -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Host": host})
    status = connection.getresponse().status
    connection.close()
    return status
