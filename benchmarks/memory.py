"""The aggregator's memory against the number of workers, and with updates waiting for it.

One process plays all workers: it reads the model once, and publishes an update in the name of each, through fedmq's own
transport and codec, as workers would. The aggregator's memory does not depend on how many processes wrote the updates.
"""

import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

import torch
from pydantic import SecretStr

from benchmarks.federation import QUEUE, TASK
from benchmarks.figures import FEDMQ, MB, Row, Spread
from benchmarks.monitor import forget_peak, peak_bytes
from benchmarks.place import Broker, Command, Commands, Failed, Place, wait_for
from broker.connecting import connect
from broker.settings import BrokerSettings
from broker.states.tensors import State, chunks, digest_of
from broker.transport import Source, Transport
from broker.wire.buffers import cut
from broker.wire.codec import decode, encode
from broker.wire.messages import MAX_PART_BYTES, BlobRef, ModelHead, UpdateHead
from broker.wire.specs import delta_specs
from broker.wire.topology import Topology

WORKLOAD = "memory"
_ROUNDS = 5
_S_A_WORKER = 8.0
_STARTS_WITHIN_S = 120.0
_FREE_DISK_MB = 4_000


def rows(place: Place, *, num_bytes: int, counts: Sequence[int], num_waiting: int, idle_mb: float) -> Iterator[Row]:
    """One row for each number of workers, one with all updates there before the aggregator reads any.

    The last row compares the numbers of workers. Values are above ``idle_mb``.
    """
    measured = []
    for num_workers in counts:
        measured.append(_row(place, num_bytes, num_workers, idle_mb, are_waiting=False))
        yield measured[-1]
    yield _row(place, num_bytes, num_waiting, idle_mb, are_waiting=True)
    peaks = [row.value.median for row in measured if row.value is not None]
    if len(peaks) == len(counts):
        system = f"highest over lowest of {', '.join(map(str, counts))} workers"
        yield Row(workload=WORKLOAD, system=system, unit="×", value=Spread.of([max(peaks) / min(peaks)]))


def _row(place: Place, num_bytes: int, num_workers: int, idle_mb: float, *, are_waiting: bool) -> Row:
    size = f"{num_bytes / MB:g} MB"
    workload = f"{WORKLOAD} {size}, {num_workers} workers" + (", all waiting" if are_waiting else "")
    try:
        _check_disk(place.folder, num_workers * num_bytes)
        measure = _with_all_waiting if are_waiting else _round_by_round
        peaks_mb, round_s = measure(place, num_bytes, num_workers)
    except Failed as error:
        return Row(workload=workload, system=FEDMQ, unit="MB", note=f"failed: {error}")
    over = Spread.of([peak_mb - idle_mb for peak_mb in peaks_mb])
    note = f"{over.median * MB / num_bytes:.2f} × the model over {idle_mb:.0f} MB idle; {round_s:.1f} s a round"
    return Row(workload=workload, system=FEDMQ, unit="MB", value=over, note=note)


def _check_disk(folder: Path, num_bytes: int) -> None:
    free_mb = shutil.disk_usage(folder).free / MB
    if free_mb < num_bytes / MB + _FREE_DISK_MB:
        raise Failed(f"{free_mb:.0f} MB of disk are free, and the waiting updates alone may take {num_bytes / MB:.0f}")


def _round_by_round(place: Place, num_bytes: int, num_workers: int) -> tuple[list[float], float]:
    """(the aggregator's peak in each round in MB, the median seconds a round takes), all in one run."""
    with (
        _waiting_aggregator(place, num_bytes, num_workers) as (broker, _, aggregator, _),
        closing(_transport(broker)) as transport,
    ):
        transport.listen(Source.MODELS)
        head = _next_head(transport, 1, aggregator, num_workers)
        delta = _delta(head)
        peaks_mb, seconds = [], []
        for number in range(2, 2 + _ROUNDS):
            forget_peak(aggregator.pid)
            begun_at = time.monotonic()
            for index in range(num_workers):
                _send(transport, head, delta, f"worker-{index}")
            head = _next_head(transport, number, aggregator, num_workers)
            seconds.append(time.monotonic() - begun_at)
            peaks_mb.append(peak_bytes(aggregator.pid) / MB)
    return peaks_mb, median(seconds)


def _with_all_waiting(place: Place, num_bytes: int, num_workers: int) -> tuple[list[float], float]:
    """The same for one round whose updates are all on the broker when an aggregator starts."""
    with (
        _waiting_aggregator(place, num_bytes, num_workers) as (broker, commands, aggregator, state),
        closing(_transport(broker)) as transport,
    ):
        transport.listen(Source.MODELS)
        head = _next_head(transport, 1, aggregator, num_workers)
        aggregator.end()
        delta = _delta(head)
        for index in range(num_workers):
            _send(transport, head, delta, f"worker-{index}")
        begun_at = time.monotonic()
        aggregator = _start(commands, broker, num_bytes, num_workers, state)
        _next_head(transport, 2, aggregator, num_workers)
        return [peak_bytes(aggregator.pid) / MB], time.monotonic() - begun_at


@contextmanager
def _waiting_aggregator(
    place: Place, num_bytes: int, num_workers: int
) -> Iterator[tuple[Broker, Commands, Command, Path]]:
    """An aggregator whose first round is open; the last one, which nobody will answer, keeps it from leaving."""
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
    flags = (
        "--queue",
        QUEUE,
        "--task",
        TASK,
        "--rounds",
        str(_ROUNDS + 1),
        "--quorum",
        str(num_workers),
        "--deadline-s",
        "none",
    )
    return commands.product(
        "fl-aggregator",
        *flags,
        "--state",
        str(state),
        name="aggregator",
        FEDMQ_BROKER=broker.url,
        MODEL_BYTES=str(num_bytes),
    )


def _transport(broker: Broker) -> Transport:
    return connect(BrokerSettings(broker=SecretStr(broker.url), queue=QUEUE), role="benchmark")


def _next_head(transport: Transport, number: int, aggregator: Command, num_workers: int) -> ModelHead:
    """The head of the model for this round, once it is on the stream."""
    found: list[ModelHead] = []

    def is_there() -> bool:
        delivery = transport.receive(0.0)
        if delivery is not None:
            head, _ = decode(delivery.body, ModelHead)
            found.extend([head] if head.round == number else [])
        return bool(found)

    wait_for(is_there, while_running=[aggregator], timeout_s=_STARTS_WITHIN_S + num_workers * _S_A_WORKER)
    return found[0]


def _delta(head: ModelHead) -> State:
    """An update of this model, the same for every worker."""
    return {spec.name: torch.full(spec.shape, 0.001) for spec in delta_specs(head.tensors)}


def _send(transport: Transport, head: ModelHead, delta: State, worker: str) -> None:
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
