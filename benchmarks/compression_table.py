"""Accuracy and bytes of each compression, in one table: digits, 8 workers, Dirichlet 0.5, 20 rounds, embedded broker.

python -m benchmarks.compression_table                    three seeds, some minutes
python -m benchmarks.compression_table --seeds 1 --json compression.json

Bytes are those of an update on the wire with its header, from the ledger; accuracy is that of the final model on the
central test data, and the mean over the seeds. Same seeds, same figures, on one machine.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from benchmarks import figures

RUN = ("--task", "digits", "--workers", "8", "--partition", "dirichlet:0.5", "--rounds", "20", "--no-baselines")
_ROOT = Path(__file__).parents[1]
CASES = (
    ("none", 0),
    ("none", 3),
    ("float16", 0),
    ("float16", 3),
    ("bfloat16", 0),
    ("int8", 0),
    ("int8", 3),
    ("topk:0.1", 0),
    ("topk:0.1", 3),
    ("topk:0.05", 3),
    ("topk:0.01", 0),
    ("topk:0.01", 3),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One compression over all seeds."""

    compression: str
    zstd: int
    update_bytes: float
    share_of_none: float
    accuracy: float
    lowest_accuracy: float
    highest_accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class _Run:
    update_bytes: float
    accuracy: float
    loss: float


def rows(*, seeds: int = 3, run: tuple[str, ...] = RUN) -> Iterator[Row]:
    """The rows as they are measured; the first is without compression, and the others' bytes are relative to it."""
    none_bytes = None
    for compression, zstd in CASES:
        runs = [_measured(compression, zstd, seed, run) for seed in range(seeds)]
        update_bytes = fmean(each.update_bytes for each in runs)
        none_bytes = none_bytes or update_bytes
        accuracies = [each.accuracy for each in runs]
        yield Row(
            compression=compression,
            zstd=zstd,
            update_bytes=update_bytes,
            share_of_none=update_bytes / none_bytes,
            accuracy=fmean(accuracies),
            lowest_accuracy=min(accuracies),
            highest_accuracy=max(accuracies),
            loss=fmean(each.loss for each in runs),
        )


def bench_row(row: Row) -> figures.Row:
    """The same for the table of ``make bench``."""
    zstd = f", zstd {row.zstd}" if row.zstd else ""
    return figures.Row(
        workload="compression",
        system=f"{figures.FEDMQ}, {row.compression}{zstd}",
        unit="of the bytes",
        value=figures.Spread.of([row.share_of_none]),
        note=f"{row.update_bytes:,.0f} bytes an update; accuracy {row.accuracy:.4f}",
    )


def _measured(compression: str, zstd: int, seed: int, run: tuple[str, ...]) -> _Run:
    with tempfile.TemporaryDirectory() as folder:
        own = ("--compression", compression, "--zstd", str(zstd), "--seed", str(seed), "--state", folder)
        subprocess.run(
            [sys.executable, "-m", "simulation.cli", *run, *own],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=1800,
            cwd=_ROOT,
        )
        final = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))["final"]
        with closing(sqlite3.connect(Path(folder) / "ledger.sqlite")) as ledger:
            ((update_bytes,),) = ledger.execute(
                "SELECT avg(num_bytes) FROM updates WHERE verdict = 'folded'"
            ).fetchall()
    return _Run(update_bytes, final["metrics"]["accuracy"], final["metrics"]["loss"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there, too")
    arguments = parser.parse_args()
    table = Table("compression", "zstd", title=f"digits, 8 workers, Dirichlet 0.5, 20 rounds, {arguments.seeds} seeds")
    for title in ("bytes of an update", "of none", "accuracy", "lowest to highest", "loss"):
        table.add_column(title, justify="right")
    measured = []
    for row in rows(seeds=arguments.seeds):
        measured.append(row)
        print(f"{row.compression} zstd {row.zstd}: {row.update_bytes:.0f} bytes, {row.accuracy:.4f}", file=sys.stderr)
        table.add_row(
            row.compression,
            str(row.zstd or ""),
            f"{row.update_bytes:,.0f}",
            f"{row.share_of_none:.3f}",
            f"{row.accuracy:.4f}",
            f"{row.lowest_accuracy:.4f} to {row.highest_accuracy:.4f}",
            f"{row.loss:.4f}",
        )
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in measured], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
