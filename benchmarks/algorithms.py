"""Rounds that each algorithm needs on the digits, unevenly spread, with FedAvg's beside them: a table.

    python -m benchmarks.algorithms [--only 'fedavgm;diloco'] [--seeds 0,1,2] [--json FILE]

Every run is a whole federation of fedmq's own over the embedded broker: ten workers, ``dirichlet:0.1``, the built-in
CNN, local training as by default (2 epochs, batches of 32, lr 0.05, momentum 0.9) or plain SGD (lr 0.1), until the
central test set is at the target, at most 60 rounds. A run depends on nothing but its settings.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simulation import simulate

NUM_WORKERS, PARTITION, TARGET, MOST_ROUNDS, EARLY = 10, "dirichlet:0.1", 0.95, 60, 10

Settings = Mapping[str, Any]
"""Of ``simulate()``, besides those that all runs have."""
PLAIN: Settings = {"momentum": 0.0, "lr": 0.1}
BY_DEFAULT: dict[str, Settings] = {
    "fedavg": {},
    "fedavg, server lr 2": {"server_lr": 2.0},
    "fedavgm:momentum=0.5": {"server_optimizer": "fedavgm:momentum=0.5"},
    "fedavgm": {"server_optimizer": "fedavgm"},
    "diloco": {"server_optimizer": "diloco"},
    "diloco:momentum=0.5": {"server_optimizer": "diloco:momentum=0.5"},
    "fedadam": {"server_optimizer": "fedadam"},
    "fedyogi": {"server_optimizer": "fedyogi"},
    "fedyogi, server lr 0.03": {"server_optimizer": "fedyogi", "server_lr": 0.03},
    "fedadagrad": {"server_optimizer": "fedadagrad"},
    "fedams": {"server_optimizer": "fedams"},
    "fedexp": {"server_optimizer": "fedexp"},
    "scaffold": {"correction": "scaffold"},
    "feddyn:alpha=0.1": {"correction": "feddyn:alpha=0.1"},
}
WITH_PLAIN_SGD: dict[str, Settings] = {
    "fedavg, plain": PLAIN,
    "fedavgm, plain": {"server_optimizer": "fedavgm", **PLAIN},
    "diloco, plain": {"server_optimizer": "diloco", **PLAIN},
    "fedadam, plain": {"server_optimizer": "fedadam", **PLAIN},
    "fedexp, plain": {"server_optimizer": "fedexp", **PLAIN},
    "scaffold, plain": {"correction": "scaffold", **PLAIN},
    "feddyn:alpha=0.1, plain": {"correction": "feddyn:alpha=0.1", **PLAIN},
}
GROUPS = (BY_DEFAULT, WITH_PLAIN_SGD)
"""The rows of the table, by name. The first of a group is what its others are put beside."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run."""

    seed: int
    rounds: int | None
    """The first round whose model is at the target; None: none was."""
    early: float
    """Accuracy after round EARLY, or at the end, if that was before."""
    seconds: float


def ran(settings: Settings, seed: int) -> Ran:
    begun_at = time.perf_counter()
    fields = {"workers": NUM_WORKERS, "partition": PARTITION, "rounds": MOST_ROUNDS, "seed": seed, "log_level": "ERROR"}
    stop = {"stop_metric": "accuracy", "stop_at": TARGET}
    with tempfile.TemporaryDirectory() as folder:
        history = simulate("digits", state=Path(folder) / "run", **fields | stop | dict(settings))
        accuracies = [float(row["accuracy"]) for row in history.rounds()]
        history.close()
    reached = next((number for number, value in enumerate(accuracies, start=1) if value >= TARGET), None)
    return Ran(seed, reached, accuracies[min(EARLY, len(accuracies)) - 1], time.perf_counter() - begun_at)


def table(results: Mapping[str, Sequence[Ran]]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        f"| algorithm | rounds to {TARGET:g}, by seed | beside FedAvg | accuracy after {EARLY} |",
        "| --- | --- | --- | --- |",
    ]
    for group in GROUPS:
        for name in [name for name in group if name in results]:
            runs = results[name]
            rounds = " ".join("-" if run.rounds is None else str(run.rounds) for run in runs)
            share = f"{_mean_rounds(runs) / _mean_rounds(results[_first(group)]):.2f}"
            early = statistics.fmean(run.early for run in runs)
            lines.append(f"| {name} | {rounds} | {share} | {early:.3f} |")
    return lines


def _first(group: Mapping[str, Settings]) -> str:
    return next(iter(group))


def _mean_rounds(runs: Sequence[Ran]) -> float:
    return statistics.fmean(MOST_ROUNDS if run.rounds is None else run.rounds for run in runs)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="names of rows, with semicolons between")
    parser.add_argument("--seeds", default="0,1,2", help="with commas between")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    rows = {name: settings for group in GROUPS for name, settings in group.items()}
    wanted = set(rows if given.only is None else (name.strip() for name in given.only.split(";")))
    if not wanted <= set(rows):
        parser.error(f"there is no row {', '.join(wanted - set(rows))}")
    wanted |= {_first(group) for group in GROUPS if wanted & set(group)}
    seeds = [int(seed) for seed in given.seeds.split(",")]
    results: dict[str, list[Ran]] = {}
    for name in [name for name in rows if name in wanted]:
        results[name] = [ran(rows[name], seed) for seed in seeds]
        print(f"{name}: {' '.join(str(run.rounds) for run in results[name])}", flush=True)
    print("", *table(results), sep="\n")
    if given.json is not None:
        figures = {name: [asdict(run) for run in runs] for name, runs in results.items()}
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
