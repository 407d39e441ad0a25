"""A site that sends bodies slowly, never, or bad: it holds up nobody, and its own are set aside (threats 10 to 12)."""

import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pika
import pytest
import torch
from pydantic import SecretStr
from rabbitmq_node import RabbitNode, wait_until
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, payload_of

from aggregator.bodies.limits import BodyLimits
from aggregator.events import Event, UpdateDecided
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from aggregator.state.ledger import Verdict
from broker.connecting import connect
from broker.rabbitmq.properties import PART_HEADER
from broker.states.tensors import State, digest_of, specs_of
from broker.transport import Transport
from broker.wire.buffers import cut
from broker.wire.codec import encode
from broker.wire.messages import BlobRef, UpdateHead
from broker.wire.topology import Topology

INITIAL: State = {"w": torch.zeros(5000, dtype=torch.float64)}
PART_BYTES = 8000
HONEST = ("a", "b", "c")
SOON_S = 30.0
FOLDED_WITHIN_S, STOPPED_WITHIN_S = 1.0, 2.0


def delta_of(worker: str) -> State:
    return {"w": torch.full((5000,), float(ord(worker)), dtype=torch.float64)}


class Site:
    """An aggregator at work, and the sites that send to it; ``bad`` is the attacker's."""

    def __init__(self, url: str, queue: str, folder: Path, *, limits: BodyLimits, part_bytes: int = PART_BYTES) -> None:
        self.url, self.part_bytes, self.state = url, part_bytes, folder
        settings = AggregatorSettings(
            broker=SecretStr(url),
            queue=queue,
            state=folder,
            quorum=str(len(HONEST)),
            rounds=1,
            task="none",
            inline_cap=0,
            part_bytes=part_bytes,
            commit_every_s=0.2,
        )
        self.topology = Topology(queue)
        self.decided: list[tuple[float, str | None, Verdict]] = []
        self.aggregator = Aggregator(
            replace(settings.config, body_limits=limits),
            StateTask(INITIAL),
            connect(settings, role="aggregator"),
            on_event=self._on_event,
        )
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._lead, name="aggregator")
        self._thread.start()
        assert self._is_open.wait(SOON_S)
        self.run_id = self.aggregator._run.expected.run_id
        self.transport: Transport = connect(settings, role="sites")

    def _lead(self) -> None:
        with closing(self.aggregator):
            self.aggregator.start()
            self._is_open.set()
            self.aggregator.run()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, UpdateDecided):
            self.decided.append((time.monotonic(), event.row.worker, event.row.verdict))

    def times(self, worker: str, verdict: Verdict) -> list[float]:
        return [at for at, name, found in self.decided if (name, found) == (worker, verdict)]

    def blob_of(self, worker: str) -> str:
        return self.topology.update_blob(worker, self.run_id, 1)

    def send(self, worker: str, *, part_bytes: int | None = None, **changes: Any) -> None:
        """The message of an update, whose blob is another matter."""
        delta = delta_of(worker[0])
        fields: dict[str, Any] = {
            "tensors": specs_of(delta),
            "sha256": digest_of(delta),
            "run_id": self.run_id,
            "worker": worker,
            "instance": "0" * 16,
            "round": 1,
            "num_samples": 1,
            "train_s": 0.0,
            "sent_at": 0.0,
            "blob": BlobRef(name=self.blob_of(worker), part_bytes=part_bytes or self.part_bytes),
        }
        self.transport.send(encode(UpdateHead(**(fields | changes))), worker=worker)

    def write(self, worker: str, *, num_parts: int | None = None) -> None:
        """A blob with the first parts of a body, or all of it."""
        parts = list(cut([payload_of(delta_of(worker[0]))], self.part_bytes))
        self.transport.write_blob(self.blob_of(worker), parts[:num_parts])

    def answer(self, worker: str) -> float:
        """A whole honest update; returns the seconds until it is folded."""
        self.write(worker)
        begun_at = time.monotonic()
        self.send(worker)
        assert wait_until(lambda: bool(self.times(worker, Verdict.FOLDED)), timeout_s=SOON_S)
        return self.times(worker, Verdict.FOLDED)[0] - begun_at

    def ends(self) -> None:
        self._thread.join(SOON_S)
        assert not self._thread.is_alive()

    def stop(self) -> float:
        """What SIGTERM does; returns the seconds it takes."""
        begun_at = time.monotonic()
        self.aggregator.stop()
        self.ends()
        return time.monotonic() - begun_at

    def query(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.state / "ledger.sqlite")) as ledger:
            return ledger.execute(query).fetchall()

    def close(self) -> None:
        self.aggregator.stop()
        self._thread.join(SOON_S)
        names = [self.blob_of(worker) for worker in (*HONEST, "bad")]
        self.transport.delete_blobs(names)
        self.transport.close()


Serve = Callable[..., Site]


@pytest.fixture
def serve(broker_url: str, queue: str, tmp_path: Path) -> Iterator[Serve]:
    sites: list[Site] = []

    def make(**settings: Any) -> Site:
        sites.append(Site(broker_url, queue, tmp_path / "run", **settings))
        return sites[-1]

    yield make
    for each in sites:
        each.close()


@pytest.fixture
def undisturbed_sha256(tmp_path: Path) -> str:
    """The digest of a run with the honest workers alone."""
    run = EmbeddedRun.make(tmp_path / "alone", StateTask(INITIAL), quorum="3", rounds=1).start()
    run.fold_all([(worker, delta_of(worker)) for worker in HONEST])
    digest = run.head.sha256
    run.aggregator.close()
    return digest


def stalled(site: Site, kind: str) -> threading.Event:
    """Sends an update of ``bad`` whose body does not come; the event ends what goes on for it."""
    is_over = threading.Event()
    site.write("bad", num_parts=0 if kind == "empty" else 2)
    site.send("bad")
    if kind == "the same part again and again":
        threading.Thread(target=repeat_part, args=(site.url, site.blob_of("bad"), is_over)).start()
    return is_over


def repeat_part(url: str, name: str, is_over: threading.Event) -> None:
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        properties = pika.BasicProperties(headers={PART_HEADER: 0}, delivery_mode=2)
        while not is_over.is_set():
            channel.basic_publish("", name, bytes(PART_BYTES), properties)
            connection.process_data_events(0.05)


KINDS = ("empty", "two parts and no more", "the same part again and again")


@pytest.mark.parametrize("kind", KINDS)
def test_others_are_folded_while_a_body_does_not_come_and_that_is_set_aside_at_its_limit(
    serve: Serve, kind: str, undisturbed_sha256: str
) -> None:
    site = serve(limits=BodyLimits(stall_s=6.0))
    is_over = stalled(site, kind)
    try:
        took_s = [site.answer(worker) for worker in HONEST[:2]]
        assert statistics.median(took_s) < FOLDED_WITHIN_S
        assert site.times("bad", Verdict.REFUSED) == []
        assert wait_until(lambda: bool(site.times("bad", Verdict.REFUSED)), timeout_s=SOON_S)
        site.answer(HONEST[2])
        site.ends()
    finally:
        is_over.set()
    assert site.query("SELECT reason FROM updates WHERE worker = 'bad'") == [("no new part of its body came for 6 s",)]
    assert site.query("SELECT model_sha256 FROM rounds") == [(undisturbed_sha256,)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_is_heard_while_a_body_does_not_come_and_its_update_goes_back(serve: Serve, kind: str) -> None:
    site = serve(limits=BodyLimits())
    is_over = stalled(site, kind)
    try:
        site.answer("a")  # so the stalled one has been received
        assert site.stop() < STOPPED_WITHIN_S
    finally:
        is_over.set()
    assert wait_until(
        lambda: site.transport.queued([site.topology.updates])[site.topology.updates].num_waiting == 1,
        timeout_s=SOON_S,
    )
    assert site.query("SELECT worker, verdict FROM updates") == [("a", "folded")]


def test_a_wrong_digest_in_many_parts_undoes_nobody_s_update(serve: Serve, undisturbed_sha256: str) -> None:
    site = serve(limits=BodyLimits(), part_bytes=400)
    site.answer("a")
    site.write("bad")
    site.send("bad", sha256="0" * 64)
    assert statistics.median([site.answer("b"), site.answer("c")]) < FOLDED_WITHIN_S
    site.ends()
    folded = [worker for _, worker, verdict in site.decided if verdict is Verdict.FOLDED]
    assert sorted(folded) == list(HONEST)
    assert site.query("SELECT model_sha256 FROM rounds") == [(undisturbed_sha256,)]


def test_parts_of_another_size_than_the_run_s_are_not_even_read(serve: Serve) -> None:
    site = serve(limits=BodyLimits())
    site.write("bad")
    site.send("bad", part_bytes=8)
    assert wait_until(lambda: bool(site.times("bad", Verdict.REFUSED)), timeout_s=SOON_S)
    site.stop()
    assert site.query("SELECT reason FROM updates") == [
        ("its blob has parts of 8 bytes; this run has parts of 8000 or 8388608",)
    ]


def test_what_a_lost_connection_interrupts_is_read_anew_and_its_time_begins_anew(
    node: RabbitNode, serve: Serve
) -> None:
    limits = BodyLimits(stall_s=12.0)
    site = serve(limits=limits)
    site.write("bad", num_parts=2)
    site.send("bad")
    site.answer("a")
    begun_at = time.monotonic()
    node.ctl("close_all_connections", "for a test")
    assert wait_until(lambda: bool(site.times("bad", Verdict.REFUSED)), timeout_s=SOON_S)
    assert site.times("bad", Verdict.REFUSED)[0] - begun_at > limits.stall_s
    site.answer("b")
    assert len(site.times("a", Verdict.FOLDED)) == 1
