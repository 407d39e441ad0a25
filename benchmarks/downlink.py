"""Bytes down and accuracy with each --downlink: digits, 8 workers, Dirichlet 0.5, 20 rounds, seeds 0 to 2, embedded.

python -m benchmarks.downlink
python -m benchmarks.downlink --seeds 1 --broker amqp://guest:guest@localhost/     the same run over RabbitMQ besides

Bytes are those of messages and blobs that a worker reads in a round, with their heads; and of a body alone. Accuracy is
that of the final model, as the aggregator has it, on the central test data. Same seeds, same figures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.sampling import Figures, measured
from broker.modules.model_tensors import ModelTensors
from broker.states.downlink import ModelForm
from broker.wire.headers import Downlink
from learning import Site, load_task

_WORKERS, _PARTITION = 8, "dirichlet:0.5"
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Row:
    """One downlink over all seeds."""

    downlink: Downlink
    body_bytes: int
    """Of one model, without its head."""
    runs: list[Figures]

    @property
    def down(self) -> float:
        """Bytes that a worker reads in a round, in the mean over seeds and rounds."""
        return fmean(run.down for run in self.runs) / _WORKERS

    @property
    def accuracy(self) -> float:
        return fmean(run.accuracy for run in self.runs)


def row_of(downlink: Downlink, *, seeds: int, rounds: int) -> Row:
    specs = ModelTensors.of(load_task("digits", Site()).model()).specs
    runs = [
        measured(num_workers=_WORKERS, num_rounds=rounds, partition=_PARTITION, downlink=downlink, seed=seed)
        for seed in range(seeds)
    ]
    return Row(downlink, ModelForm(specs, downlink).num_bytes, runs)


def over_rabbitmq(downlink: Downlink, broker: str, *, seed: int, rounds: int) -> str:
    """The digest of the final model of the same run, with a process for each worker."""
    flags = ["--task", "digits", "--workers", str(_WORKERS), "--partition", _PARTITION, "--rounds", str(rounds)]
    flags += ["--downlink", downlink, "--seed", str(seed), "--no-baselines", "--no-live", "--over-rabbitmq"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "simulation.cli", *flags, "--state", folder],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=1800,
            cwd=_ROOT,
            env=os.environ | {"FEDMQ_BROKER": broker},
        )
        summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
    return str(summary["final"]["model_sha256"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--broker", metavar="URL", help="of a RabbitMQ to run it over, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("downlink", title=f"digits, {_WORKERS} workers, {given.rounds} rounds, {given.seeds} seeds")
    for title in ("bytes of a body", "of none", "bytes down a round and worker", "of none", "accuracy", "by seed"):
        table.add_column(title, justify="right")
    rows = [row_of(downlink, seeds=given.seeds, rounds=given.rounds) for downlink in get_args(Downlink)]
    for row in rows:
        table.add_row(
            row.downlink,
            f"{row.body_bytes:,}",
            f"{row.body_bytes / rows[0].body_bytes:.4f}",
            f"{row.down:,.0f}",
            f"{row.down / rows[0].down:.4f}",
            f"{row.accuracy:.4f}",
            " ".join(f"{run.accuracy:.4f}" for run in row.runs),
        )
    Console().print(table)
    for row in rows if given.broker else ():
        for seed, run in enumerate(row.runs):
            digest = over_rabbitmq(row.downlink, given.broker, seed=seed, rounds=given.rounds)
            told = "the same" if digest == run.model_sha256 else "ANOTHER"
            print(
                f"{row.downlink}, seed {seed}: embedded {run.model_sha256[:12]}, over RabbitMQ {told} ({digest[:12]})"
            )


if __name__ == "__main__":
    main()
