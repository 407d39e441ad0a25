"""``make bench``: limits of this machine, fedmq, and on request its peers, in one run and one table."""

import argparse
import logging
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from rabbitmq_node import NodeError
from rich.console import Console

from benchmarks import (
    compression_table,
    facts,
    federation,
    flood,
    folding,
    machine,
    many_workers,
    memory,
    partials,
    raw_pika,
    table,
)
from benchmarks.figures import FEDMQ, MB, Row
from benchmarks.peers import environments, flower, nvflare_simulator
from benchmarks.place import ROOT, Failed, Place
from benchmarks.raw_process import RAISED_BYTES, RELEASED_BYTES
from benchmarks.workload import Workload, failed_row

log = logging.getLogger(__name__)

_EXAMPLES = """\
  make bench                                                       half an hour; no peers, nothing above 100 MB
  make bench BENCH_ARGS='--json bench.json'
  make bench BENCH_ARGS='--only overhead,payload --peers'          beside Flower and NVFLARE
  make bench BENCH_ARGS='--only payload --payload-mb 100'
  make bench BENCH_ARGS='--large'                                  400 MB models and 256 workers, too"""

_PAYLOAD_MB, _LARGE_PAYLOAD_MB = (1, 10, 100), (1, 10, 100, 400)
_FEWEST_ROUNDS = 5
_TERMINATED = 128 + signal.SIGTERM
_MOST_FOR_STREAM_BYTES = 100 * MB
_WORKERS, _LARGE_WORKERS = (4, 16, 64), (4, 16, 64, 256)


class Bench:
    """The benchmarks requested; each method yields rows as they are measured."""

    def __init__(self, given: argparse.Namespace, place: Place) -> None:
        self._given, self._place = given, place

    def limits(self) -> Iterator[Row]:
        yield from machine.rows(self._place.folder, when="before")
        yield from raw_pika.limit_rows(self._place)

    def overhead(self) -> Iterator[Row]:
        """A round of 10,000 float32 parameters."""
        workload = Workload("overhead", federation.IDLE_BYTES, num_rounds=50)
        yield self._fedmq(workload)
        yield self._sealed(workload)
        bare = partial(raw_pika.measure_durable_round, workload, self._place)
        yield _measured(workload, raw_pika.DURABLE_ROUND, bare)
        yield from self._peers(workload)

    def tensors(self) -> Iterator[Row]:
        """A round of 10,000 tensors of 4 elements, beside the same bytes in 20."""
        yield self._fedmq(Workload("10,000 tensors", 160_000, num_rounds=20, num_tensors=10_000))
        yield self._fedmq(Workload("20 tensors", 160_000, num_rounds=20))

    def payload(self) -> Iterator[Row]:
        for num_mb in self._given.payload_mb:
            workload = Workload(f"payload {num_mb} MB", num_mb * MB, num_rounds=5, timeout_s=120 + 6 * num_mb)
            yield federation.with_multiples(self._fedmq(workload), workload, self._idle_mb)
            compiled = partial(federation.measure, workload, self._place, is_compiled=True)
            yield _measured(workload, federation.COMPILED, compiled)
            yield self._sealed(workload)
            for size in (RELEASED_BYTES, RAISED_BYTES):
                measure = partial(raw_pika.measure, workload, self._place, receive_bytes=size)
                yield _measured(workload, raw_pika.SIZES[size], measure)
            yield from self._peers(workload)

    def _fedmq(self, workload: Workload) -> Row:
        return _measured(workload, FEDMQ, partial(federation.measure, workload, self._place))

    def _sealed(self, workload: Workload) -> Row:
        measure = partial(federation.measure, workload, self._place, is_sealed=True)
        return _measured(workload, federation.SEALED, measure)

    def _peers(self, workload: Workload) -> Iterator[Row]:
        """Flower's deployment engine takes seconds for any round, so it runs fewer rounds."""
        if not self._given.peers:
            return
        few = replace(workload, num_rounds=min(workload.num_rounds, _FEWEST_ROUNDS), timeout_s=workload.timeout_s + 300)
        for system, name, measure, theirs in (
            (flower.DEPLOYMENT, environments.FLOWER, flower.deployment, few),
            (flower.STREAM, environments.FLOWER, flower.stream, workload),
            (nvflare_simulator.SIMULATOR, environments.NVFLARE, nvflare_simulator.simulator, workload),
        ):
            if system == flower.STREAM and workload.num_bytes > _MOST_FOR_STREAM_BYTES:
                yield failed_row(workload, system, "left out; it needs more than 13 GB of memory")
                continue
            yield _measured(workload, system, partial(self._peer, measure, theirs, name))

    def _peer(self, measure: Callable[[Workload, Place, Path], Row], workload: Workload, name: str) -> Row:
        return measure(workload, self._place, environments.environment(name, self._given.peers_folder))

    def memory(self) -> Iterator[Row]:
        counts = _LARGE_WORKERS if self._given.large else _WORKERS
        idle_mb = self._idle_mb["aggregator"]
        return memory.rows(self._place, num_bytes=100 * MB, counts=counts, num_waiting=64, idle_mb=idle_mb)

    @cached_property
    def _idle_mb(self) -> Mapping[str, float]:
        return federation.idle_mb(self._place)

    def fold(self) -> Iterator[Row]:
        yield from folding.rows()

    def compression(self) -> Iterator[Row]:
        return map(compression_table.bench_row, compression_table.rows(seeds=1))

    def workers(self) -> Iterator[Row]:
        return map(many_workers.bench_row, many_workers.rows())

    def partials(self) -> Iterator[Row]:
        return partials.bench_rows()

    def flood(self) -> Iterator[Row]:
        return flood.bench_rows(self._place)

    def limits_after(self) -> Iterator[Row]:
        """The limits again: a machine shared with others does not stay the same for ten minutes."""
        yield from machine.rows(self._place.folder, when="after")


def _measured(workload: Workload, system: str, measure: Callable[[], Row]) -> Row:
    """The row, or one that says why there is none."""
    try:
        return measure()
    except (Failed, NodeError) as error:
        return failed_row(workload, system, error)
    except Exception as error:
        log.exception("%s at %s", system, workload.name)
        return failed_row(workload, system, error)


_WORKLOADS = (
    "limits",
    "overhead",
    "tensors",
    "payload",
    "memory",
    "fold",
    "compression",
    "workers",
    "partials",
    "flood",
)


def main(argv: Sequence[str]) -> int:
    given = _given(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # cleans up what was started and written
    console = Console(width=None if sys.stdout.isatty() else 200)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=given.folder) as folder:
        place = Place(Path(folder).absolute())
        known = facts.of_this_run(place.folder)
        begun_at = time.monotonic()
        rows = _run(Bench(given, place), given.only, console)
    known["took_s"] = f"{time.monotonic() - begun_at:.0f}"
    command = f"make bench BENCH_ARGS='{shlex.join(argv)}'" if argv else "make bench"
    table.show(rows, command=command, facts=known, console=console)
    for line in _left_out(given):
        console.print(line, highlight=False)
    if given.json is not None:
        table.write_json(given.json, rows, command=command, facts=known)
    return 0 if all(row.value is not None for row in rows if row.system == FEDMQ) else 1


def _run(bench: Bench, names: Sequence[str], console: Console) -> list[Row]:
    rows: list[Row] = []
    for name in (*names, *(["limits_after"] if "limits" in names else [])):
        for row in _one_by_one(bench, name):
            value = "–" if row.value is None else f"{table.number(row.value.median)} {row.unit}"
            console.print(f"{row.workload}: {row.system}: {value}  {row.note}", highlight=False)
            rows.append(row)
    return rows


def _one_by_one(bench: Bench, name: str) -> Iterator[Row]:
    """The rows of a workload; a failure ends it, and the others go on."""
    try:
        yield from getattr(bench, name)()
    except Exception as error:
        log.exception("workload %s", name)
        yield Row(workload=name, system=FEDMQ, note=f"failed: {error}")


def _left_out(given: argparse.Namespace) -> Iterator[str]:
    missing = [name for name in _WORKLOADS if name not in given.only]
    if missing:
        yield f"not asked for: {', '.join(missing)}"
    if not given.large:
        yield "left out: 400 MB, 256 workers (--large)"
    if not given.peers:
        yield "left out: Flower and NVFLARE (--peers)"


def _given(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        epilog=f"examples:\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", type=_names, default=_WORKLOADS, help=f"workloads, with commas: {', '.join(_WORKLOADS)} (all)"
    )
    parser.add_argument("--large", action="store_true", help="also a model of 400 MB and 256 workers")
    parser.add_argument("--peers", action="store_true", help="also Flower and NVFLARE; installs them the first time")
    parser.add_argument(
        "--peers-folder", type=Path, default=ROOT / ".bench", help="for their environments (.bench of this repository)"
    )
    parser.add_argument("--payload-mb", type=_sizes, help="sizes of the payload's models in MB, with commas (1,10,100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--folder", type=Path, help="where state and broker write (the system's temporary folder)")
    given = parser.parse_args(argv)
    given.payload_mb = given.payload_mb or (_LARGE_PAYLOAD_MB if given.large else _PAYLOAD_MB)
    return given


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in _WORKLOADS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no workload {', '.join(unknown)}; there are {', '.join(_WORKLOADS)}")
    return names


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected sizes in MB, such as 1,10,100, and not {text}")
    return sizes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
