"""What bad messages cost the rounds of honest workers: three of them, ten rounds, on a private RabbitMQ.

PYTHONPATH=tests:. python -m benchmarks.flood

``quiet``              nothing disturbs them
``20,000 small``       one sender publishes so many messages of 20 bytes in the third round
``20,000 invented``    the same under 2,000 names
``60 of 15 MB``        one sender publishes so many bodies of that size in the third round
``…, past fedmq``      the same into a queue that nobody reads: what the broker and the sender alone cost

Each where the sites are ``elsewhere``, and their training takes a second and nothing of this machine, and where they
train ``here`` (digits). The sender is a process that publishes as fast as the broker takes it, on the same machine; so
its own computing time, and the broker's, is part of what the rounds bear, and here most of all.
"""

import json
import multiprocessing
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.synchronize import Event
from pathlib import Path

import pika
from pika.adapters.blocking_connection import BlockingChannel

from benchmarks import figures
from benchmarks.federation import IDLE_BYTES, TASK
from benchmarks.figures import FEDMQ, MB, Row, Spread
from benchmarks.monitor import Monitor
from benchmarks.place import Command, Place, wait_for
from broker.wire.topology import Topology, update_key

_QUEUE, _UNREAD = "flood", "unread"
_ROUNDS, _WORKERS = 10, 3
_BEGINS_IN_ROUND = 3
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Flood:
    """So many bad messages, of so many bytes, under so many names."""

    name: str
    num: int = 0
    num_bytes: int = 0
    num_names: int = 1
    is_past_fedmq: bool = False

    def publish(self, url: str, begins: Event) -> None:
        """Publishes all of them, unconfirmed, once it is told to."""
        body = bytes(self.num_bytes)
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel: BlockingChannel = connection.channel()
            if self.is_past_fedmq:
                channel.queue_declare(_UNREAD, durable=True, arguments={"x-queue-type": "quorum"})
            begins.wait()
            for index in range(self.num):
                channel.basic_publish(*self._way(index), body)

    def _way(self, index: int) -> tuple[str, str]:
        """(exchange, routing key)."""
        if self.is_past_fedmq:
            return "", _UNREAD
        return Topology(_QUEUE).inbound, update_key(f"bad-{index % self.num_names}")


@dataclass(frozen=True, slots=True)
class Sites:
    """What the honest workers train."""

    name: str
    flags: Sequence[str]
    epochs: int
    settings: Mapping[str, str] = field(default_factory=dict)


FLOODS = (
    Flood("quiet"),
    Flood("20,000 small", 20_000, 20),
    Flood("20,000 invented", 20_000, 20, num_names=2000),
    Flood("60 of 15 MB", 60, 15 * MB),
    Flood("20,000 small, past fedmq", 20_000, 20, is_past_fedmq=True),
    Flood("60 of 15 MB, past fedmq", 60, 15 * MB, is_past_fedmq=True),
)
SITES = (
    Sites("elsewhere", ("--task", TASK), 1, {"TRAIN_S": "1", "MODEL_BYTES": str(IDLE_BYTES)}),
    Sites("here", ("--task", "digits"), 60),
)


def bench_rows(place: Place, floods: Sequence[Flood] = FLOODS, sites: Sequence[Sites] = SITES) -> Iterator[Row]:
    """One row a flood; the notes have each round's seconds beside the quiet ones, and what was left behind."""
    for where in sites:
        yield from _rows(place, floods, where)


def _rows(place: Place, floods: Sequence[Flood], sites: Sites) -> Iterator[Row]:
    quiet: Sequence[float] = ()
    for flood in floods:
        measured = measure(flood, place, sites)
        quiet = quiet or measured.rounds_s
        yield Row(
            workload=f"flood, sites {sites.name}: {flood.name}",
            system=FEDMQ,
            value=Spread.of(measured.rounds_s),
            usage=figures.Usage(peak_mb=measured.peak_mb),
            note=measured.in_words(quiet),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run."""

    rounds_s: Sequence[float]
    """From one round to the next, without the first, which has the start of everything."""
    peak_mb: dict[str, float]
    num_refused: int
    num_rows: int
    """Ledger rows of refused messages."""
    ledger_mb: float
    num_dead: int
    dead_mb: float
    """What all dead letters hold."""

    def in_words(self, quiet: Sequence[float]) -> str:
        ratios = ", ".join(f"{own / other:.2f}" for own, other in zip(self.rounds_s, quiet, strict=False))
        return (
            f"rounds by those of the quiet run: {ratios}; {self.num_refused:,} refused, {self.num_rows} rows,"
            f" ledger {self.ledger_mb:.2f} MB, {self.num_dead} dead letters with {self.dead_mb:.1f} MB"
        )


def measure(flood: Flood, place: Place, sites: Sites) -> Measured:
    """Runs the federation to its end, with the flood in its third round."""
    with place.room("flood") as room, room.broker() as broker, room.commands() as commands:
        state = room.folder / "state"
        common = ("--queue", _QUEUE, *sites.flags)
        own = (
            "--rounds",
            str(_ROUNDS),
            "--quorum",
            str(_WORKERS),
            "--epochs",
            str(sites.epochs),
            "--state",
            str(state),
        )
        settings = {"FEDMQ_BROKER": broker.url, "OMP_NUM_THREADS": "1", **sites.settings}
        aggregator = commands.product("fl-aggregator", *common, *own, name="aggregator", **settings)
        workers = [
            commands.product("fl-worker", *common, "--name", f"honest-{index}", name=f"honest-{index}", **settings)
            for index in range(_WORKERS)
        ]
        spawned = multiprocessing.get_context("spawn")
        begins = spawned.Event()
        sender = spawned.Process(target=flood.publish, args=(broker.url, begins))
        sender.start()  # a process takes a second to start, which is no part of the flood
        roles = {"aggregator": [aggregator.pid], "worker": [worker.pid for worker in workers], "broker": [broker.pid]}
        with Monitor(roles) as monitor:
            _wait_for_round(state, _BEGINS_IN_ROUND, aggregator)
            begins.set()
            wait_for((state / "summary.json").exists, while_running=[aggregator], timeout_s=_TIMEOUT_S)
            sender.join()
        dead = list(_dead_letters(broker.url))
        return Measured(
            rounds_s=[after - before for before, after in pairwise(_times(state))][1:],
            peak_mb=monitor.peak_mb(),
            num_refused=sum(row["refused"] for row in json.loads((state / "summary.json").read_text())["rounds"]),
            num_rows=_ask(state, "SELECT count(*) FROM updates WHERE verdict = 'refused'"),
            ledger_mb=sum(path.stat().st_size for path in state.glob("ledger.sqlite*")) / MB,
            num_dead=len(dead),
            dead_mb=sum(dead) / MB,
        )


def _wait_for_round(state: Path, number: int, aggregator: Command) -> None:
    wait_for(lambda: len(_times(state)) >= number, while_running=[aggregator], timeout_s=_TIMEOUT_S)


def _times(state: Path) -> list[float]:
    """When each round was opened, and when the last was closed, as Unix times."""
    if not (state / "ledger.sqlite").exists():
        return []
    query = (
        "SELECT opened_at FROM rounds UNION ALL"
        f" SELECT closed_at FROM rounds WHERE round = {_ROUNDS} AND closed_at IS NOT NULL"
    )
    try:
        with closing(sqlite3.connect(f"file:{state}/ledger.sqlite?mode=ro", uri=True)) as ledger:
            return sorted(at for (at,) in ledger.execute(query))
    except sqlite3.OperationalError:  # just being made
        return []


def _ask(state: Path, query: str) -> int:
    with closing(sqlite3.connect(f"file:{state}/ledger.sqlite?mode=ro", uri=True)) as ledger:
        return int(ledger.execute(query).fetchone()[0])


def _dead_letters(url: str) -> Iterator[int]:
    """The size of each."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        while True:
            method, _, body = channel.basic_get(Topology(_QUEUE).dead)
            if method is None:
                return
            yield len(body)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="flood-") as folder:
        for row in bench_rows(Place(Path(folder).absolute())):
            assert row.value is not None
            peaks = ", ".join(f"{role} {mb:.0f} MB" for role, mb in row.usage.peak_mb.items())
            print(f"{row.workload}: {row.value.median:.2f} s a round, at most {row.value.highest:.2f}; {peaks}")
            print(f"  {row.note}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
