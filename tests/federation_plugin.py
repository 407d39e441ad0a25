"""Fixtures of the end-to-end tests: `pytest_plugins = ["federation_plugin"]`.

A federation of real processes on a real RabbitMQ, and what the same federation learns when nothing disturbs it.
(No conftest.py in tests/e2e: tests elsewhere import the one above by its name, and there can be one of a name.)
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from federation import ATTENTIVE, Federation
from rabbitmq_node import RabbitNode

from aggregator.events import Event, RoundClosed
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.memory import MemoryBroker, MemoryTransport
from broker.wire.topology import Topology
from learning import Site, load_task
from simulation.embedded import run_embedded
from simulation.slot import LocalSlot


@pytest.fixture
def federation(tmp_path: Path, broker_url: str, queue: str) -> Iterator[Federation]:
    with Federation(tmp_path, broker=broker_url, queue=queue) as running:
        yield running


@pytest.fixture
def mortal_federation(tmp_path: Path, mortal_node: RabbitNode, queue: str) -> Iterator[Federation]:
    """A federation on a broker that the test may kill."""
    with Federation(tmp_path, broker=mortal_node.url, queue=queue) as running:
        yield running


@pytest.fixture
def undisturbed_sha256(tmp_path: Path) -> Callable[..., str]:
    """The digest of the final model of these workers when every round has all of them and nothing goes wrong."""

    def run(*names: str, rounds: int) -> str:
        settings = AggregatorSettings(
            task=ATTENTIVE, rounds=rounds, quorum=str(len(names)), state=tmp_path / "undisturbed"
        )
        broker = MemoryBroker()
        sites = {name: load_task(ATTENTIVE, Site(name=name)) for name in names}
        slot = LocalSlot(sites, topology=Topology(settings.queue), inline_cap=settings.inline_cap)
        digests: list[str] = []

        def look(event: Event) -> None:
            if isinstance(event, RoundClosed):
                digests.append(event.row["model_sha256"])

        aggregator = Aggregator(
            settings.config,
            load_task(ATTENTIVE, Site()),
            MemoryTransport(broker),
            on_event=look,
        )
        with closing(aggregator):
            run_embedded(aggregator, broker, [slot])
        assert len(digests) == rounds
        return digests[-1]

    return run
