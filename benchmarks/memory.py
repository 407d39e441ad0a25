"""The aggregator's memory beside the number of workers, and beside updates that wait for it.

One process plays all workers: it reads the model once, and publishes an update in the name of each, through fedmq's own
transport and codec, as workers would. What the aggregator holds does not depend on how many processes wrote them.

Idle is what an aggregator holds that waits for updates of a model of 40 KB: Python, PyTorch and two connections.
"""

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from pydantic import SecretStr

from benchmarks.federation import QUEUE, TASK, opened_at
from benchmarks.figures import FEDMQ, MB, Row, Spread
from benchmarks.monitor import peak_bytes, rss_bytes
from benchmarks.place import Broker, Command, Commands, Failed, Place, wait_for
from broker.codec import decode, encode
from broker.messages import MAX_PART_BYTES, BlobRef, ModelHead, UpdateHead
from broker.rabbitmq import RabbitMQ
from broker.settings import BrokerSettings
from broker.tensors import State, chunks, cut, delta_specs, digest_of
from broker.topology import Topology
from broker.transport import Source

WORKLOAD = "memory"
_IDLE_BYTES = 40_000
_MODEL_WITHIN_S = 60.0
_S_A_WORKER = 8.0
_STARTS_WITHIN_S = 120.0
_FREE_DISK_MB = 4_000


def rows(place: Place, *, num_bytes: int, counts: list[int], num_waiting: int) -> Iterator[Row]:
    """One row for each number of workers, and one for updates that were all there before the aggregator read any."""
    idle = _idle_mb(place)
    for num_workers in counts:
        yield _row(place, num_bytes, num_workers, idle, are_waiting=False)
    yield _row(place, num_bytes, num_waiting, idle, are_waiting=True)


def _row(place: Place, num_bytes: int, num_workers: int, idle_mb: float, *, are_waiting: bool) -> Row:
    size = f"{num_bytes / MB:g} MB"
    workload = f"{WORKLOAD} {size}, {num_workers} workers" + (", all waiting" if are_waiting else "")
    try:
        _check_disk(place.folder, num_workers * num_bytes)
        peak_mb, round_s = _measure(place, num_bytes, num_workers, are_waiting=are_waiting)
    except Failed as error:
        return Row(workload=workload, system=FEDMQ, unit="MB", note=f"failed: {error}")
    over_mb = peak_mb - idle_mb
    note = f"{over_mb * MB / num_bytes:.2f} x the model over {idle_mb:.0f} MB idle; {round_s:.1f} s for all"
    return Row(workload=workload, system=FEDMQ, unit="MB", value=Spread.of([over_mb]), note=note)


def _check_disk(folder: Path, num_bytes: int) -> None:
    free_mb = shutil.disk_usage(folder).free / MB
    if free_mb < num_bytes / MB + _FREE_DISK_MB:
        raise Failed(f"{free_mb:.0f} MB of disk are free, and the waiting updates alone may take {num_bytes / MB:.0f}")


def _idle_mb(place: Place) -> float:
    with _waiting_aggregator(place, _IDLE_BYTES, 1) as (_, _, aggregator, _):
        time.sleep(1.0)  # nothing says that it has come to rest
        return rss_bytes(aggregator.pid) / MB


def _measure(place: Place, num_bytes: int, num_workers: int, *, are_waiting: bool) -> tuple[float, float]:
    """(peak of the aggregator in MB, seconds from the first update to the round's end)."""
    with _waiting_aggregator(place, num_bytes, num_workers) as (broker, commands, aggregator, state):
        with closing(_transport(broker)) as transport:
            head, delta = _received(transport)
            if are_waiting:
                aggregator.end()
            begun_at = time.monotonic()
            for index in range(num_workers):
                _send(transport, head, delta, f"worker-{index}")
        if are_waiting:
            begun_at = time.monotonic()
            aggregator = _start(commands, broker, num_bytes, num_workers, state)
        wait_for(
            lambda: len(opened_at(state)) > 1, while_running=[aggregator], timeout_s=60.0 + num_workers * _S_A_WORKER
        )
        seconds = time.monotonic() - begun_at
        _await_model(broker, round_number=2)
        return peak_bytes(aggregator.pid) / MB, seconds


@contextmanager
def _waiting_aggregator(
    place: Place, num_bytes: int, num_workers: int
) -> Iterator[tuple[Broker, Commands, Command, Path]]:
    """An aggregator whose first round is open; the second, which nobody will answer, keeps it from leaving."""
    with place.room("memory") as room, room.broker() as broker, room.commands() as commands:
        state = room.folder / "state"
        aggregator = _start(commands, broker, num_bytes, num_workers, state)
        ledger = state / "ledger.sqlite"
        wait_for(ledger.exists, while_running=[aggregator], timeout_s=_STARTS_WITHIN_S)
        wait_for(lambda: _has_model(aggregator), while_running=[aggregator], timeout_s=_STARTS_WITHIN_S)
        yield broker, commands, aggregator, state


def _has_model(aggregator: Command) -> bool:
    return "state in" in aggregator.said


def _start(commands: Commands, broker: Broker, num_bytes: int, num_workers: int, state: Path) -> Command:
    flags = ("--queue", QUEUE, "--task", TASK, "--rounds", "2", "--quorum", str(num_workers), "--deadline-s", "none")
    return commands.product(
        "aggregator.cli",
        *flags,
        "--state",
        str(state),
        name="aggregator",
        FEDMQ_BROKER=broker.url,
        MODEL_BYTES=str(num_bytes),
    )


def _transport(broker: Broker) -> RabbitMQ:
    return RabbitMQ(BrokerSettings(broker=SecretStr(broker.url), queue=QUEUE), role="benchmark")


def _await_model(broker: Broker, *, round_number: int) -> ModelHead:
    """The head of the model for this round, when it is on the stream."""
    with closing(_transport(broker)) as transport:
        return _head(transport, round_number)


def _head(transport: RabbitMQ, round_number: int) -> ModelHead:
    transport.listen(Source.MODELS)
    while (delivery := transport.receive(_MODEL_WITHIN_S)) is not None:
        head, _ = decode(delivery.body, ModelHead)
        if head.round == round_number:
            return head
    raise Failed(f"no model for round {round_number} came within {_MODEL_WITHIN_S:g} s")


def _received(transport: RabbitMQ) -> tuple[ModelHead, State]:
    """The head of the first model, and an update of it."""
    head = _head(transport, 1)
    specs = delta_specs(head.tensors)
    return head, {spec.name: torch.full(spec.shape, 0.001) for spec in specs}


def _send(transport: RabbitMQ, head: ModelHead, delta: State, worker: str) -> None:
    """An update as a worker of this name would send it."""
    specs = delta_specs(head.tensors)
    update = UpdateHead(
        tensors=specs,
        sha256=digest_of(delta),
        run_id=head.run_id,
        worker=worker,
        instance=secrets.token_hex(8),
        round=head.round,
        num_samples=1,
        train_s=0.0,
        sent_at=time.time(),
    )
    name = Topology(QUEUE).update_blob(worker, head.run_id, head.round)
    name = transport.write_blob(name, cut(chunks(delta, specs), MAX_PART_BYTES))
    blob = BlobRef(name=name, part_bytes=MAX_PART_BYTES)
    transport.send(encode(update.model_copy(update={"blob": blob})), worker=worker)
