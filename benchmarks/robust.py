"""Robust rules against false sites, and what they cost in memory and time.

python -m benchmarks.robust               digits over 10 sites, of which 2 send -5 times what they learned; 3 seeds
python -m benchmarks.robust --memory      rules over 10 and 100 updates of 20 MB each: memory, seconds, beside numpy

Each figure of memory is that of a process of its own, above what it takes before the first update.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import nn

from aggregator.events import Event, UpdateDecided
from aggregator.history import History
from aggregator.robust import Robust
from aggregator.rounds import Key
from aggregator.spool import Spool
from aggregator.state import Verdict
from benchmarks.figures import MB
from benchmarks.monitor import forget_peak, peak_bytes
from broker.wire import TensorSpec
from learning import Plan, Site, Task
from learning.digits import task as digits
from simulation import simulate

ATTACKED = ("none", "median", "trimmed:0.2", "krum:f=2", "krum:f=2,m=6", "bulyan:f=1", "geometric-median")
MEASURED = ("median", "trimmed:0.2", "krum:f=2,m=6", "geometric-median")
_FALSE, _FACTOR = 2, -5.0
_WORKERS, _LAST = 10, 10
_PIECE = 2**18


class Attacked:
    """The digits, of whose sites the first two send ``_FACTOR`` times what they learned."""

    def __init__(self, site: Site) -> None:
        self._task: Task = digits(site)
        self._is_false = site.index is not None and site.index < _FALSE

    def model(self) -> nn.Module:
        return self._task.model()

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        received = [parameter.detach().clone() for parameter in model.parameters()]
        found = self._task.train(model, plan)
        if self._is_false:
            with torch.no_grad():
                for parameter, before in zip(model.parameters(), received, strict=True):
                    parameter.copy_(before + _FACTOR * (parameter - before))
        return found

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return self._task.evaluate(model)


class _Diverged(Exception):
    """Updates leave the range that one may have: the run would wait for others without end."""


def _end_if_diverged(event: Event) -> None:
    if isinstance(event, UpdateDecided) and event.row.verdict is Verdict.REFUSED:
        raise _Diverged


def attacked(rule: str, *, seed: int, rounds: int, partition: str) -> tuple[float, int | None]:
    """The mean central accuracy of the last ten rounds that there are, and the first round with 0.95."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "run"
        own = {"workers": _WORKERS, "rounds": rounds, "seed": seed, "partition": partition, "robust": rule}
        with suppress(_Diverged):
            simulate(Attacked, state=state, on_event=_end_if_diverged, **own).close()
        with History(state) as history:
            accuracies = [row["accuracy"] for row in history.rounds()]
    reached = next((number for number, value in enumerate(accuracies, start=1) if value >= 0.95), None)
    return mean(accuracies[-_LAST:]), reached


def show_attack(rules: Sequence[str], seeds: Sequence[int], *, rounds: int, partition: str) -> None:
    print(
        f"digits, {partition}, {_WORKERS} sites, {_FALSE} of them send {_FACTOR:g} times their delta, {rounds} rounds"
    )
    for rule in rules:
        found = [attacked(rule, seed=seed, rounds=rounds, partition=partition) for seed in seeds]
        accuracies = " ".join(f"{accuracy:.3f}" for accuracy, _ in found)
        reached = " ".join("-" if number is None else str(number) for _, number in found)
        print(f"{rule:18} accuracy, mean of the last ten: {accuracies}   rounds to 0.95: {reached}", flush=True)


# -- memory and time -----------------------------------------------------------------------------------------


def measure(rule: str, *, num: int, num_bytes: int, folder: Path) -> dict[str, float]:
    """What one round takes in this process, from the first update to the last block of the next model."""
    specs = (TensorSpec("w", "float32", (num_bytes // 4,)),)
    one = Robust.parse(rule).rule
    assert one is not None
    forget_peak(os.getpid())
    before, begun_at = peak_bytes(os.getpid()), time.perf_counter()
    spool = Spool(specs, rule=one, folder=folder)
    for worker in range(num):
        _add(spool, worker, num_bytes)
    added_at = time.perf_counter()
    spool.judge(["w"])
    judged_at = time.perf_counter()
    for start in range(0, num_bytes // 4, _PIECE):
        for _ in spool.means(specs, num, start=start, num=min(_PIECE, num_bytes // 4 - start)):
            pass
    done_at = time.perf_counter()
    return {
        "peak_mb": (peak_bytes(os.getpid()) - before) / MB,
        "add_s": added_at - begun_at,
        "judge_s": judged_at - added_at,
        "means_s": done_at - judged_at,
    }


def _add(spool: Spool, worker: int, num_bytes: int) -> None:
    random = np.random.default_rng(worker)
    spool.begin_update(Key(1, f"worker-{worker:03}"))
    for offset in range(0, num_bytes, 4 * _PIECE):
        num = min(_PIECE, (num_bytes - offset) // 4)
        spool.add(offset, random.standard_normal(num, np.float32).tobytes(), 1.0)
    spool.end_update()


def measure_numpy(*, num: int, num_bytes: int) -> dict[str, float]:
    """numpy's own median over all updates in memory."""
    forget_peak(os.getpid())
    before = peak_bytes(os.getpid())
    rows = np.stack(
        [np.random.default_rng(worker).standard_normal(num_bytes // 4, np.float32) for worker in range(num)]
    )
    begun_at = time.perf_counter()
    np.median(rows, axis=0)
    return {"peak_mb": (peak_bytes(os.getpid()) - before) / MB, "means_s": time.perf_counter() - begun_at}


def show_memory(rules: Sequence[str], counts: Sequence[int], *, megabytes: int, folder: Path) -> None:
    print(f"updates of {megabytes} MB; MB above the process before the first one; seconds to add, judge, combine")
    for rule in rules:
        peaks = []
        for num in counts:
            found = _in_a_process(rule, num, megabytes, folder)
            peaks.append(found["peak_mb"])
            words = " ".join(f"{name} {value:.1f}" for name, value in found.items())
            print(f"{rule:18} {num:4} updates: {words}", flush=True)
        print(f"{rule:18} memory, most over least: {max(peaks) / min(peaks):.3f}", flush=True)


def _in_a_process(rule: str, num: int, megabytes: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.robust", "--child", rule, "--counts", str(num)]
    command += ["--megabytes", str(megabytes), "--folder", str(folder)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="memory and seconds, in place of accuracy")
    parser.add_argument("--rules", nargs="+", help="rules to measure; numpy: np.median in memory")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--partition", default="iid")
    parser.add_argument("--counts", nargs="+", type=int, default=[10, 100], help="numbers of updates")
    parser.add_argument("--megabytes", type=int, default=20, help="of each update")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given: Any = parser.parse_args(arguments)
    if given.child is not None:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            (num,), num_bytes = given.counts, given.megabytes * MB // 4 * 4
            if given.child == "numpy":
                found = measure_numpy(num=num, num_bytes=num_bytes)
            else:
                found = measure(given.child, num=num, num_bytes=num_bytes, folder=Path(folder))
        print(json.dumps(found))
    elif given.memory:
        rules = given.rules or [*MEASURED, "numpy"]
        show_memory(rules, given.counts, megabytes=given.megabytes, folder=given.folder)
    else:
        show_attack(given.rules or ATTACKED, given.seeds, rounds=given.rounds, partition=given.partition)


if __name__ == "__main__":
    main()
