"""When partial aggregators pay off: a root alone against a root with partials, over RabbitMQ, each in its own process.

In each round, all updates are on the broker before an aggregator takes the first one (SIGSTOP holds the aggregators
meanwhile), so that nobody waits for a worker. The round's seconds run from then to the next model's head. With enough
cores, the CPU seconds of the root are the limit; otherwise, all processes share the cores there are.

PYTHONPATH=.:tests python -m benchmarks.partials --workers 32 --update-mb 10 --partials 0,1,2
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from pydantic import SecretStr
from rabbitmq_node import RabbitNode

from benchmarks import figures
from broker.connecting import connect
from broker.settings import BrokerSettings
from broker.transport import Source, Transport
from broker.wire.buffers import cut
from broker.wire.codec import decode, encode
from broker.wire.messages import MAX_PART_BYTES, BlobRef, ModelHead, UpdateHead
from broker.wire.specs import Digest, delta_specs
from broker.wire.topology import Topology, shard_of

_ROOT = Path(__file__).parent.parent
_TASK = f"{_ROOT / 'benchmarks' / 'large_model.py'}:task"
_NUM_WARM_UP = 1
_SOON_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A root with a number of partials (0: alone). Seconds a round: median, lowest, highest."""

    num_partials: int
    num_workers: int
    update_mb: int
    round_s: tuple[float, float, float]
    root_cpu_s: float
    """User and system CPU seconds of the root in one round."""
    partial_cpu_s: float
    """The same for the busiest partial."""

    @property
    def update_mb_per_s(self) -> float:
        return self.num_workers * self.update_mb / self.round_s[0]


def rows(*, num_workers: int, update_mb: int, counts: Sequence[int], num_rounds: int) -> Iterator[Row]:
    """One row for each number of partials, all on one node of RabbitMQ."""
    with tempfile.TemporaryDirectory() as folder, RabbitNode(Path(folder) / "node") as node:
        node.start()
        for number in counts:
            yield _measured(
                node.url, Path(folder) / str(number), number, num_workers, update_mb=update_mb, num_rounds=num_rounds
            )


_BENCH_WORKERS, _BENCH_MB, _BENCH_ROUNDS = 32, 10, 5


def bench_rows() -> Iterator[figures.Row]:
    """A root alone, and with one and with two partials, for the table of ``make bench``."""
    for row in rows(num_workers=_BENCH_WORKERS, update_mb=_BENCH_MB, counts=(0, 1, 2), num_rounds=_BENCH_ROUNDS):
        median_s, lowest_s, highest_s = row.round_s
        yield figures.Row(
            workload=f"partials {row.num_workers} workers, {row.update_mb} MiB",
            system=f"{figures.FEDMQ}, --shards {row.num_partials}" if row.num_partials else figures.FEDMQ,
            value=figures.Spread(median_s, lowest_s, highest_s, _BENCH_ROUNDS),
            usage=figures.Usage(cpu_s={"aggregator": row.root_cpu_s}),
        )


def _measured(url: str, folder: Path, number: int, num_workers: int, *, update_mb: int, num_rounds: int) -> Row:
    folder.mkdir()
    queue = f"partials-{number}"
    names = _names(num_workers, number)
    settings = BrokerSettings(broker=SecretStr(url), queue=queue)
    with ExitStack() as stack:
        env = os.environ | {
            "PYTHONPATH": str(_ROOT),
            "FEDMQ_BROKER": url,
            "FEDMQ_QUEUE": queue,
            "MODEL_MB": str(update_mb),
            "MODEL_BYTES": str(update_mb * 2**20),
            "OMP_NUM_THREADS": "1",
        }
        partials = [
            stack.enter_context(_started(["--role", "partial", "--shard", f"{shard}/{number}"], folder, env))
            for shard in range(number)
        ]
        for shard in range(number):  # each must see the first round open
            _wait_for(folder / f"log-{shard}", "partial aggregator of shard")
        flags = ["--task", _TASK, "--rounds", str(_NUM_WARM_UP + num_rounds), "--quorum", str(num_workers)]
        root_flags = [*flags, "--shards", str(number), "--state", str(folder / "state")]
        root = stack.enter_context(_started(root_flags, folder, env))
        loader = stack.enter_context(closing(connect(settings, role="loader")))
        _wait_for(folder / f"log-{number}", "run ")
        loader.listen(Source.MODELS)
        aggregators = [root, *partials]
        model = _next_model(loader, after=0)
        seconds: list[float] = []
        used_before = [0.0] * len(aggregators)
        for round_number in range(1, _NUM_WARM_UP + num_rounds + 1):
            if round_number == _NUM_WARM_UP + 1:
                used_before = [_cpu_s(process) for process in aggregators]
            for process in aggregators:
                process.send_signal(signal.SIGSTOP)
            _publish(loader, Topology(queue), model, names)
            begun_at = time.perf_counter()
            for process in aggregators:
                process.send_signal(signal.SIGCONT)
            model = _next_model(loader, after=round_number)
            seconds.append(time.perf_counter() - begun_at)
            if not model.is_finished:
                used = [_cpu_s(process) for process in aggregators]
    num_used = num_rounds - 1  # the last one's can no longer be read
    cpu_s = [(after - before) / num_used for before, after in zip(used_before, used, strict=True)]
    taken = seconds[_NUM_WARM_UP:]
    return Row(
        num_partials=number,
        num_workers=num_workers,
        update_mb=update_mb,
        round_s=(median(taken), min(taken), max(taken)),
        root_cpu_s=cpu_s[0],
        partial_cpu_s=max(cpu_s[1:], default=0.0),
    )


def _names(num_workers: int, num_shards: int) -> list[str]:
    """Names of workers, the same number for each shard."""
    if not num_shards:
        return [f"worker-{number}" for number in range(num_workers)]
    found: dict[int, list[str]] = {shard: [] for shard in range(num_shards)}
    number = 0
    while sum(map(len, found.values())) < num_workers:
        name = f"worker-{number}"
        shard = found[shard_of(name, num_shards)]
        if len(shard) < -(-num_workers // num_shards):
            shard.append(name)
        number += 1
    return [name for names in found.values() for name in names]


@contextmanager
def _started(flags: Sequence[str], folder: Path, env: Mapping[str, str]) -> Iterator[psutil.Popen]:
    number = len(list(folder.glob("log-*")))
    with (folder / f"log-{number}").open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "aggregator.cli", *flags], env=dict(env), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + _SOON_S
    while text not in log.read_text(errors="replace"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{log.name} never said {text!r}: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.05)


def _cpu_s(process: psutil.Popen) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _next_model(loader: Transport, *, after: int) -> ModelHead:
    while (delivery := loader.receive(_SOON_S)) is not None:
        head, _ = decode(delivery.body, ModelHead)
        if head.round > after:
            return head
    raise TimeoutError(f"no model after round {after}")


def _publish(loader: Transport, topology: Topology, model: ModelHead, names: Sequence[str]) -> None:
    """One update from each of these, as a worker would send it."""
    specs = delta_specs(model.tensors)
    num_elements = sum(spec.num_elements for spec in specs)
    payload = np.random.default_rng(model.round).standard_normal(num_elements, np.float32).tobytes()
    digest = Digest(specs)
    digest.add(payload)
    for name in names:
        head = UpdateHead(
            tensors=specs,
            sha256=digest.hex(),
            run_id=model.run_id,
            worker=name,
            instance="0123456789abcdef",
            round=model.round,
            num_samples=100,
            train_s=0.0,
            sent_at=time.time(),
        )
        body = encode(head, payload) if head.num_bytes <= MAX_PART_BYTES else None
        if body is None:
            blob = loader.write_blob(
                topology.update_blob(name, model.run_id, model.round), cut([payload], MAX_PART_BYTES)
            )
            body = encode(head.model_copy(update={"blob": BlobRef(name=blob, part_bytes=MAX_PART_BYTES)}))
        loader.send(body, worker=name, num_shards=model.num_shards)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--update-mb", type=int, default=10)
    parser.add_argument("--partials", default="0,1,2", help="numbers of partial aggregators to compare")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(argv)
    counts = [int(number) for number in given.partials.split(",")]
    alone: Row | None = None
    print(f"{given.workers} workers with {given.update_mb} MiB each, {given.rounds} rounds, {os.cpu_count()} cores")
    print("partials  round s (lowest … highest)   × alone  updates MiB/s  root CPU s  × alone  busiest partial CPU s")
    for row in rows(
        num_workers=given.workers, update_mb=given.update_mb, counts=counts, num_rounds=max(2, given.rounds)
    ):
        alone = alone or row
        middle, lowest, highest = row.round_s
        print(
            f"{row.num_partials:>8}  {middle:7.3f} ({lowest:.3f} … {highest:.3f})   {alone.round_s[0] / middle:9.2f}"
            f"  {row.update_mb_per_s:13.0f}  {row.root_cpu_s:10.3f}  {alone.root_cpu_s / row.root_cpu_s:7.2f}"
            f"  {row.partial_cpu_s:21.3f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
