"""What a round costs on the wire if some workers take part, beside everybody. Digits, over the embedded broker.

PYTHONPATH=tests:. python -m benchmarks.sampling

Every worker is the product's, on a transport of its own that counts the bodies of all messages: heads, parts of models,
updates, signs of life. RabbitMQ's own framing, which is alike for all, is not in it.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from aggregator.history import History
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.memory import MemoryBroker, MemoryTransport
from broker.transport import Delivery
from broker.wire.buffers import Buffer
from broker.wire.topology import Topology
from learning import Site, load_task
from simulation.embedded import config_for
from simulation.own_models import OwnModels
from simulation.sites import SimulatedSites
from worker.config import WorkerConfig
from worker.service import Worker

_TASK = "digits"


class _Counting(MemoryTransport):
    """A worker's transport that counts what goes down to the worker, and up."""

    down = up = 0

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        delivery = super().receive(timeout_s)
        self.down += 0 if delivery is None else len(delivery.body)
        return delivery

    def read_blob(self, name: str, num_parts: int) -> Iterator[Buffer]:
        for part in super().read_blob(name, num_parts):
            self.down += len(part)
            yield part

    def send(self, body: bytes, *, worker: str, num_shards: int = 0) -> None:
        self.up += len(body)
        super().send(body, worker=worker, num_shards=num_shards)

    def announce(self, body: bytes, *, worker: str) -> None:
        self.up += len(body)
        super().announce(body, worker=worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one round, in the mean over the rounds of a run; its start and its final model are not in it."""

    down: float
    up: float
    num_folded: float
    seconds: float
    accuracy: float
    """Of the last model."""
    model_sha256: str


def measured(*, num_workers: int, num_rounds: int, partition: str = "iid", **changes: Any) -> Figures:
    """A run with these settings besides."""
    sites, broker, models = SimulatedSites.numbered(num_workers), MemoryBroker(), OwnModels()
    with tempfile.TemporaryDirectory(prefix="sampling-") as folder:
        settings = AggregatorSettings(task=_TASK, rounds=num_rounds, state=Path(folder), **changes)
        aggregator = Aggregator(
            config_for(sites.names, settings), load_task(_TASK, Site(partition=partition)), MemoryTransport(broker)
        )
        wires = [_Counting(broker) for _ in sites.names]
        workers = []
        for index, (name, wire) in enumerate(zip(sites.names, wires, strict=True)):
            task = load_task(_TASK, sites.site(index, partition), own=True)
            config = WorkerConfig(name=name, topology=Topology(settings.queue), inline_cap=settings.inline_cap)
            workers.append(Worker(config, task, wire, model=models.of(name, task)))
        with closing(aggregator):
            aggregator.start()
            for worker in workers:
                worker.start()
            before = [(wire.down, wire.up) for wire in wires]
            for _ in range(num_rounds):
                for worker in workers:
                    worker.step(0)
                while aggregator.is_running and aggregator.step(0):
                    pass
        with History(folder) as history:
            rows = history.rounds()
        if not aggregator.is_finished:
            raise RuntimeError(f"{len(rows)} of {num_rounds} rounds are closed")
        return Figures(
            down=sum(wire.down - down for wire, (down, _) in zip(wires, before, strict=True)) / num_rounds,
            up=sum(wire.up - up for wire, (_, up) in zip(wires, before, strict=True)) / num_rounds,
            num_folded=sum(row["num_folded"] for row in rows) / num_rounds,
            seconds=sum(row["seconds"] for row in rows) / num_rounds,
            accuracy=rows[-1]["accuracy"],
            model_sha256=rows[-1]["model_sha256"],
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--sample", default="100", help="as fl-aggregator has it")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    everybody = measured(num_workers=given.workers, num_rounds=given.rounds)
    some = measured(sample=given.sample, num_workers=given.workers, num_rounds=given.rounds)
    table = Table(title=f"digits, {given.workers} workers, a round in the mean of {given.rounds}")
    for name in ("", "updates", "MB down", "MB up", "MB in all", "seconds"):
        table.add_column(name, justify="left" if not name else "right")
    for name, row in (("everybody", everybody), (f"--sample {given.sample}", some)):
        sizes = (f"{size / 1e6:.2f}" for size in (row.down, row.up, row.down + row.up))
        table.add_row(name, f"{row.num_folded:.0f}", *sizes, f"{row.seconds:.2f}")
    shares = (some.down / everybody.down, some.up / everybody.up)
    both = (some.down + some.up) / (everybody.down + everybody.up)
    table.add_row(
        "share", "", *(f"{share:.3f}" for share in (*shares, both)), f"{some.seconds / everybody.seconds:.3f}"
    )
    Console().print(table)


if __name__ == "__main__":
    main()
