"""The query that KEDA gets, asked of a real Prometheus about a real run, by a stand-in that scales as KEDA does."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from federation import ATTENTIVE, Command, Federation
from prometheus_process import Prometheus, prometheus
from rabbitmq_node import free_port
from rendered_chart import EXAMPLES, Object, objects_of, of_kind

from console.errors import ExitCode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)

MOST = 8
SOON_S = 120.0
WINDOW = ("[1m]", "[20s]")
"""Over which the query looks, and in this test."""


def scaled_object() -> Object:
    production = next(path for path in EXAMPLES if path.stem == "production")
    (found,) = of_kind(objects_of(production), "ScaledObject")
    return found


class StandIn:
    """What KEDA and the autoscaler behind it do, with processes in place of pods and without their delays.

    No worker while the value is not above the activation threshold; else its ratio to the threshold, rounded up.
    """

    def __init__(self, federation: Federation, asked: Prometheus, scaled: Object) -> None:
        (trigger,) = scaled["spec"]["triggers"]
        told = trigger["metadata"]
        self._query = told["query"].replace(*WINDOW)
        assert self._query != told["query"]
        self._threshold, self._activation = float(told["threshold"]), float(told["activationThreshold"])
        self._least = scaled["spec"]["minReplicaCount"]
        self._federation, self._asked = federation, asked
        self.workers: list[Command] = []
        self.ended: list[int] = []
        self._num_started = 0

    @property
    def wanted(self) -> int:
        values = list(self._asked.query(self._query).values())
        value = values[0] if values else 0.0  # ignoreNullValues
        if value <= self._activation:
            return int(self._least)
        return min(MOST, max(1, math.ceil(value / self._threshold)))

    def look(self) -> int:
        """Scales once; how many workers there are then."""
        wanted = self.wanted
        while len(self.workers) < wanted:
            name = f"site-{self._num_started}"
            self._num_started += 1
            self.workers.append(self._federation.worker(name, "--stay", task=ATTENTIVE))
        while len(self.workers) > wanted:
            worker = self.workers.pop()
            worker.terminate()
            self.ended.append(worker.ends())
        return len(self.workers)

    def until(self, number: int) -> None:
        """Scales until there are so many."""
        deadline = time.monotonic() + SOON_S
        while self.look() != number:
            assert time.monotonic() < deadline, f"{len(self.workers)} workers in place of {number}"
            time.sleep(0.2)


@contextmanager
def watched(federation: Federation, port: int) -> Iterator[StandIn]:
    pod = {"namespace": "learning", "pod": "here-aggregator-0123abcd-x7k2p"}  # as a PodMonitor labels it
    with prometheus(federation.folder, {"learning/here": port}, labels=pod) as asked:
        yield StandIn(federation, asked, scaled_object())


def test_workers_come_with_a_run_stay_while_its_aggregator_moves_and_leave_with_it(federation: Federation) -> None:
    port = free_port()
    with watched(federation, port) as scaler:
        assert scaler.look() == 0  # nobody runs anything
        run = ("--rounds", "4", "--quorum", str(MOST), "--deadline-s", "none", "--metrics-port", str(port))
        for index in range(MOST):
            federation.gates.hold(f"site-{index}", 3)
        aggregator = federation.aggregator(*run)
        scaler.until(MOST)
        federation.gates.wait_for(f"site-{MOST - 1}", 3)

        aggregator.terminate()  # it moves, and nobody is scaled meanwhile
        assert aggregator.ends() == ExitCode.INTERRUPTED
        aggregator = federation.aggregator(*run)
        aggregator.says("waits for")
        assert scaler.look() == MOST
        for index in range(MOST):
            federation.gates.release(f"site-{index}", 3)
        assert aggregator.ends() == ExitCode.OK, aggregator.tail

        scaler.until(0)
    assert scaler.ended == [ExitCode.OK] * MOST
    assert federation.folded() == [(number, f"site-{index}") for number in range(1, 5) for index in range(MOST)]
