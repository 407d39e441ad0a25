"""Aggregator and broker are killed while a run is told something: told once, it is done once, in the ledger."""

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from crash.fleet import AGGREGATOR, Fleet
from crash.points import ACK, SET, Point
from rabbitmq_node import RabbitNode, wait_until

from broker.rabbitmq.transport import RabbitMQ
from broker.settings import BrokerSettings
from broker.wire.messages import Answer
from broker.wire.signatures import Believing
from broker.wire.topology import Topology
from console.errors import BrokerError
from operations.runs.telling import tell

TAKE = "aggregator.state.ledger:Ledger.take_command"
SOON_S = 90.0
FAST = {"broker.rabbitmq.links.link:_MAX_BACKOFF_S": 1.0}

POINTS = [
    Point("before its transaction", AGGREGATOR, TAKE, "before", (("small", 1),)),
    Point("in its transaction", AGGREGATOR, SET, "after", (("small", 1),), "'num_rounds': 8"),
    Point("before its ack", AGGREGATOR, ACK, "before", (("small", 1),), "COMMANDS"),
    Point("after its ack", AGGREGATOR, ACK, "after", (("small", 1),), "COMMANDS"),
]


def _fleet(folder: Path, node: RabbitNode, queue: str) -> Fleet:
    """An aggregator whose first round waits for a worker that does not come."""
    return Fleet(folder, url=node.url, queue=queue, names=(), rounds=3, quorum=1)


def _told(node: RabbitNode, queue: str, verb: str, *words: str, within_s: float = SOON_S) -> Answer:
    settings = BrokerSettings(broker=node.url, queue=queue, connect_timeout_s=SOON_S)
    with closing(RabbitMQ(settings, role="test")) as transport:
        answer, _ = tell(transport, Topology(queue), Believing(), verb=verb, words=words, within_s=within_s)
        return answer


def _is_up(node: RabbitNode, fleet: Fleet, queue: str) -> bool:
    """Whether the aggregator has reported, and so can be told something."""
    settings = BrokerSettings(broker=node.url, queue=queue, connect_timeout_s=SOON_S)
    with suppress(BrokerError), closing(RabbitMQ(settings, role="test")) as transport:
        return fleet.num_opened_rounds() == 1 and transport.read_status() is not None
    return False


def _in_background(do: Callable[[], Answer]) -> tuple[threading.Thread, list[Answer]]:
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(do()), name="teller")
    thread.start()
    return thread, answers


def _check_done_once(fleet: Fleet) -> None:
    assert fleet.rows("SELECT text, is_accepted FROM commands WHERE text LIKE 'extend%'") == [("extend 5", 1)]
    assert fleet.rows("SELECT json_extract(value, '$.num_rounds') FROM run WHERE key = 'standing'") == [(8,)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_an_aggregator_killed_while_it_is_told_something_does_it_once(
    point: Point, node: RabbitNode, tmp_path: Path, queue: str
) -> None:
    with _fleet(tmp_path, node, queue) as fleet:
        fleet.start(AGGREGATOR, point.trigger("small"), constants=FAST)
        assert wait_until(lambda: _is_up(node, fleet, queue), timeout_s=SOON_S), fleet.logs()
        thread, answers = _in_background(lambda: _told(node, queue, "extend", "5"))
        assert fleet.members[AGGREGATOR].wait(SOON_S) == -9, fleet.logs()
        fleet.start(AGGREGATOR, constants=FAST)
        thread.join(SOON_S)
        assert [answer.text for answer in answers] == ["the run has 8 rounds; round 1 is open"], fleet.logs()
        _check_done_once(fleet)
        assert _told(node, queue, "finish", "now").is_accepted
        assert fleet.members[AGGREGATOR].wait(SOON_S) == 0, fleet.logs()
        _check_done_once(fleet)


@pytest.mark.timeout(300)
def test_a_broker_killed_when_it_has_a_command_loses_none_and_does_none_twice(
    mortal_node: RabbitNode, tmp_path: Path, queue: str
) -> None:
    node = mortal_node
    trigger = {"target": TAKE, "when": "after", "call": 1, "about": "", "victim": node.pid, "delay_s": 0.0}
    with _fleet(tmp_path, node, queue) as fleet:
        fleet.start(AGGREGATOR, trigger, constants=FAST)
        assert wait_until(lambda: _is_up(node, fleet, queue), timeout_s=SOON_S), fleet.logs()
        thread, answers = _in_background(lambda: _told(node, queue, "extend", "5", within_s=2 * SOON_S))
        try:
            assert wait_until(lambda: not node.is_running, timeout_s=SOON_S), fleet.logs()
        finally:
            node.kill()
            node.start()
        thread.join(SOON_S)
        assert [answer.is_accepted for answer in answers] == [True], fleet.logs()
        assert _told(node, queue, "finish", "now").is_accepted
        assert fleet.members[AGGREGATOR].wait(SOON_S) == 0, fleet.logs()
        _check_done_once(fleet)
