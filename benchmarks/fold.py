"""The exact fold beside a plain ``acc.add_(x, alpha=w)``, on one thread: gigabytes of update bytes a second.

python -m benchmarks.fold                  100 MB x 16 updates of float32, in pieces of 8 MiB as a transport gives them
python -m benchmarks.fold --megabytes 400 --updates 4 --repeats 9

Exact and plain take turns, so that both meet the same neighbours on the machine; the ratio is that of a turn.
Beside them, a turn each: adding one sum to another, and the mean that closes a round, in bytes of the model.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from aggregator.mean import ExactSum
from broker.tensors import TensorSpec

PIECE_BYTES = 8 * 2**20
NUM_DISTINCT = 4
"""So many different updates take turns: together far larger than a cache, and no larger than they need to be."""
WEIGHTS = (32.0, 1000.0, 57.0, 12345.0)
"""Numbers of samples."""


class Row(NamedTuple):
    """What was measured, in units of ``unit``: the middle of the repeats, the least and the most."""

    name: str
    unit: str
    median: float
    least: float
    most: float


def rows(*, megabytes: int = 100, updates: int = 16, repeats: int = 5) -> Iterator[Row]:
    """The fold, the plain addition, their ratio, and what goes with them."""
    torch.set_num_threads(1)
    specs = (TensorSpec("w", "float32", (megabytes * 10**6 // 4,)),)
    deltas = _deltas(specs[0].num_elements)
    exact_sum, plain = ExactSum(specs), torch.zeros(specs[0].shape)
    num_bytes = specs[0].num_bytes
    todo = list(islice(cycle(zip(deltas, WEIGHTS, strict=True)), updates))

    def fold() -> None:
        for delta, weight in todo:
            _fold(exact_sum, delta, weight)
        exact_sum.bound = 0.0  # else the repeats would leave the range together

    def add() -> None:
        for delta, weight in todo:
            plain.add_(torch.from_numpy(delta), alpha=weight)

    def close() -> None:
        for _ in exact_sum.means(specs[0], 16):
            pass

    fold(), add()  # the memory is there from now on
    turns = [(_seconds(fold), _seconds(add)) for _ in range(repeats)]
    yield _row("exact fold", "GB/s", [updates * num_bytes / exact / 1e9 for exact, _ in turns])
    yield _row("acc.add_(x, alpha=w)", "GB/s", [updates * num_bytes / added / 1e9 for _, added in turns])
    yield _row("exact fold / acc.add_", "ratio", [added / exact for exact, added in turns])
    yield _row("closing mean", "GB/s", [num_bytes / _seconds(close) / 1e9 for _ in range(repeats)])
    other = ExactSum(specs)
    _fold(other, deltas[0], 1.0)
    other.carry()
    added_sums = [num_bytes / _seconds(lambda: exact_sum.add_sum(other)) / 1e9 for _ in range(repeats)]
    yield _row("add_sum", "GB/s", added_sums)


def _deltas(num_elements: int) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.standard_normal(num_elements, dtype=np.float32) * np.float32(1e-3) for _ in range(NUM_DISTINCT)]


def _fold(exact_sum: ExactSum, delta: NDArray[np.float32], weight: float) -> None:
    payload = memoryview(delta).cast("B")
    for start in range(0, len(payload), PIECE_BYTES):
        exact_sum.add(start, payload[start : start + PIECE_BYTES], weight)
    exact_sum.end_update()


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _row(name: str, unit: str, values: list[float]) -> Row:
    return Row(name, unit, statistics.median(values), min(values), max(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="size of an update (%(default)s)")
    parser.add_argument("--updates", type=int, default=16, help="updates a turn (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (%(default)s)")
    args = parser.parse_args()
    for row in rows(megabytes=args.megabytes, updates=args.updates, repeats=args.repeats):
        print(f"{row.name:24}{row.median:8.3f} {row.unit:6} ({row.least:.3f} to {row.most:.3f})")


if __name__ == "__main__":
    main()
