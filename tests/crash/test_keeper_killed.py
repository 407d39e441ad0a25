"""A keeper is killed at every point of an answer, over RabbitMQ: the same bytes come again, and are charged once."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from crash.points import ACK, SMALL, WRITE_BLOB, Point
from rabbitmq_node import RabbitNode
from unit.keeper.asking import FEDERATION, KEEPER, SITES, request, seed
from zygote import Forked, zygote

from broker.rabbitmq.transport import RabbitMQ
from broker.settings import BrokerSettings
from broker.transport import Source
from broker.wire import Release, Topology, Withheld, decode, is_of_kind
from console import BlobLost
from identities.in_memory import AGGREGATOR
from keeper.ledger import LEDGER

SOON_S = 60.0
FAST = {"broker.rabbitmq.links.link:_MAX_BACKOFF_S": 1.0}
CHARGE = "keeper.ledger:Ledger.charge"
HOLD, NOISED = "keeper.expanding:MaskSum.hold", "keeper.expanding:MaskSum.noised"
SEND = "broker.rabbitmq.transport:RabbitMQ.send_release"


def _point(name: str, target: str, when: str) -> Point:
    return Point(name, KEEPER, target, when, ((SMALL, 1),))


POINTS = [
    _point("before masks are expanded", HOLD, "before"),
    _point("before the transaction", CHARGE, "before"),
    _point("within the transaction", CHARGE, "after"),
    _point("after the transaction, before there is noise", NOISED, "before"),
    _point("before the blob", WRITE_BLOB, "before"),
    _point("before the answer", SEND, "before"),
    _point("before the ack", ACK, "before"),
    _point("after the ack", ACK, "after"),
]


class Served:
    """A keeper in a process of its own, and the aggregator's end of its queues."""

    def __init__(self, folder: Path, node: RabbitNode, queue: str) -> None:
        self._folder, self._node, self._queue = folder, node, queue
        self.topology = Topology(queue, keepers=(KEEPER,))
        settings = BrokerSettings(broker=node.url, queue=queue, connect_timeout_s=SOON_S)
        self.aggregator = RabbitMQ(settings, role="test", topology=self.topology)
        FEDERATION.roster.save(folder / "roster.yaml", FEDERATION.admin)
        self._key = FEDERATION.keys[KEEPER].save(folder / "keys")

    def begin(self, point: Point | None = None) -> Forked:
        flags = ["--roster", str(self._folder / "roster.yaml"), "--key", str(self._key), "--queue", self._queue]
        flags += ["--roster-key", FEDERATION.admin.public.fingerprint, "--state", str(self._folder / "state")]
        flags += ["--min-sites", "2", "--dp-noise", "5", "--dp-epsilon", "8", "--dp-delta", "1e-5", "--inline-cap", "0"]
        arguments = ("keeper.cli", flags, point.trigger(SMALL) if point else None, FAST)
        log = self._folder / "keeper.log"
        return zygote().start("crash.armed:run", *arguments, log=log, env={"FEDMQ_BROKER": self._node.url})

    def answers(self, number: int) -> list[bytes | Withheld]:
        """The next so many: the bodies of releases, and refusals."""
        found: list[bytes | Withheld] = []
        until = time.monotonic() + SOON_S
        while len(found) < number:
            delivery = self.aggregator.receive(max(0.0, until - time.monotonic()))
            assert delivery is not None, (self._folder / "keeper.log").read_text()
            with suppress(BlobLost):  # the next answer's took its place: that is on its way
                found.append(self._read(bytes(delivery.body)))
            self.aggregator.ack([delivery])
        return found

    def _read(self, body: bytes) -> bytes | Withheld:
        if is_of_kind(body, Withheld):
            return decode(body, Withheld)[0]
        head, _ = decode(body, Release)
        assert head.blob is not None
        return b"".join(self.aggregator.read_blob(head.blob.name, head.blob.num_parts(head.num_bytes)))

    def charges(self) -> list[tuple[int, int]]:
        with closing(sqlite3.connect(self._folder / "state" / LEDGER)) as ledger:
            return ledger.execute("SELECT round, num_updates FROM releases").fetchall()


@contextmanager
def _served(folder: Path, node: RabbitNode, queue: str) -> Iterator[Served]:
    served = Served(folder, node, queue)
    with closing(served.aggregator):
        served.aggregator.declare()
        assert served.aggregator.lead()
        served.aggregator.listen(Source.UPDATES)
        yield served
        served.aggregator.remove()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_a_keeper_killed_in_an_answer_gives_the_same_bytes_and_charges_once(
    point: Point, node: RabbitNode, tmp_path: Path, queue: str
) -> None:
    sizes = {"num_words": 300, "num_halves": 5}
    messages = [seed(name, clip=0.5, step=2.0**-20, **sizes) for name in SITES]
    with _served(tmp_path, node, queue) as served:
        killed = served.begin(point)
        served.aggregator.send_request(request(messages, **sizes), keeper=KEEPER)
        assert killed.wait(SOON_S) == -9, killed.said
        again = served.begin()
        served.aggregator.send_request(request(messages, **sizes), keeper=KEEPER)
        served.aggregator.send_request(request(messages[:3], **sizes), keeper=KEEPER)
        answers = served.answers(2)
        while isinstance(answers[-1], bytes):
            answers += served.answers(1)
        *given, refusal = answers
        assert len(set(map(bytes, given))) == 1  # type: ignore[arg-type]
        assert len(given) >= (2 if point.name == "after the ack" else 1)
        assert isinstance(refusal, Withheld)
        assert refusal.is_final
        assert served.charges() == [(1, 4)]
        again.signal(15)
        assert again.wait(SOON_S) == 0, again.said
        assert f"gave aggregator {AGGREGATOR} the sum of 4 masks of 4 sites once more" in again.said
