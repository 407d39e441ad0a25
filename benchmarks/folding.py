"""The exact sum compared with plain additions: GB/s of update bytes on one core, 16 updates of 100 MB."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.fold_kernel import Kernel, built, kernel
from benchmarks.figures import FEDMQ, MB, Row, Spread
from broker.wire.messages import MAX_PART_BYTES
from broker.wire.specs import TensorSpec, canonical

WORKLOAD = "fold"
_IN_NUMPY = f"{FEDMQ} without a C compiler"
_NUM_BYTES, _NUM_TENSORS, _NUM_UPDATES = 100 * MB, 20, 16
_WEIGHT = 17.0
_REPEATS = 5

Floats = NDArray[np.float32]


def rows() -> list[Row]:
    """The rows, measured in one thread; the systems take turns, so that all have the same neighbours on the machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    update = np.random.default_rng(0).standard_normal(_NUM_BYTES // 4, dtype=np.float32) * np.float32(1e-3)
    folds = {
        FEDMQ: _exact(update, built()),
        _IN_NUMPY: _exact(update),
        f"{FEDMQ} --compiled-fold": _exact(update, kernel()),
        "torch acc.add_(x, alpha=w)": _torch(update),
        "numpy acc += x * w": _numpy(update),
    }
    try:
        for fold in folds.values():
            fold()  # touches all memory for the first time
        turns = [{system: _gb_per_s(fold) for system, fold in folds.items()} for _ in range(_REPEATS)]
    finally:
        torch.set_num_threads(num_threads)
    return [_row(system, [turn[system] for turn in turns]) for system in folds]


def _row(system: str, speeds: list[float]) -> Row:
    note = f"pieces of {MAX_PART_BYTES >> 20} MiB" if system == FEDMQ else ""
    return Row(workload=WORKLOAD, system=system, unit="GB/s", value=Spread.of(speeds), note=note, is_more_better=True)


def _gb_per_s(fold: Callable[[], None]) -> float:
    begun_at = time.perf_counter()
    for _ in range(_NUM_UPDATES):
        fold()
    return _NUM_UPDATES * _NUM_BYTES / 1e9 / (time.perf_counter() - begun_at)


def _exact(update: Floats, compiled: Kernel | None = None) -> Callable[[], None]:
    num = len(update) // _NUM_TENSORS
    specs = canonical(TensorSpec(f"t{index:02}", "float32", (num,)) for index in range(_NUM_TENSORS))
    total = ExactSum(specs, kernel=compiled)
    payload = memoryview(update.view(np.uint8))  # type: ignore[arg-type]

    def fold() -> None:
        for offset, piece in _pieces(payload):
            total.add(offset, piece, _WEIGHT)
        total.end_update()

    return fold


def _pieces(payload: memoryview) -> Iterator[tuple[int, memoryview]]:
    for offset in range(0, len(payload), MAX_PART_BYTES):
        yield offset, payload[offset : offset + MAX_PART_BYTES]


def _torch(update: Floats) -> Callable[[], None]:
    total, values = torch.zeros(len(update)), torch.from_numpy(update)

    def fold() -> None:
        total.add_(values, alpha=_WEIGHT)

    return fold


def _numpy(update: Floats) -> Callable[[], None]:
    total = np.zeros_like(update)

    def fold() -> None:
        np.add(total, update * np.float32(_WEIGHT), out=total)

    return fold
