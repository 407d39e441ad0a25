"""How the time of a round and the memory grow with the number of workers. Digits, 5 rounds, a quorum of all.

PYTHONPATH=tests:. python -m benchmarks.many_workers --plot many.svg

``embedded``  one ``fl-simulate`` for each number of workers
``sampled``   the same, in which ``--sample`` of them take part in a round; each has 14 samples of its own drawing
``RabbitMQ``  a private node, one ``fl-aggregator``, and the product's workers, each with its own connection; see
              connections.py. ``--connected 1000`` takes some minutes.

A round's time runs from its model's broadcast to its end; the first round includes the start of everything and is left
out of the median. Memory is the peak of the largest process of a role.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import connections, figures

_TASK = "digits"
_EMBEDDED, _SAMPLED, _CONNECTED = (10, 100, 300, 1000), (100, 1000, 10_000), (10, 50, 100, 200)
_SAMPLE = 100


class Failed(RuntimeError):
    """A process failed; the message ends with its last output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of workers over one broker."""

    over: str
    num_workers: int
    rounds_s: tuple[float, ...]
    """Of all rounds, the first included."""
    peak_mb: float
    """Of the process that aggregates; embedded and with one job, that process also trains."""
    workers_mb: float | None = None
    broker_mb: float | None = None
    crowd: connections.Crowd | None = None
    """Over RabbitMQ."""
    model_sha256: str = ""

    @property
    def round_s(self) -> float:
        """The median without the first."""
        return median(self.rounds_s[1:] or self.rounds_s)


def rows(
    *,
    embedded: Sequence[int] = _EMBEDDED,
    sampled: Sequence[int] = (),
    connected: Sequence[int] = _CONNECTED,
    num_rounds: int = 5,
    jobs: int = 1,
) -> Iterator[Row]:
    """The rows as they are measured."""
    for num_workers in sampled:
        yield _embedded(num_workers, num_rounds, jobs, "--sample", str(_SAMPLE), "--partition", "draws:14")
    for num_workers in embedded:
        yield _embedded(num_workers, num_rounds, jobs)
    for num_workers in connected:
        yield _connected(num_workers, num_rounds)


def bench_row(row: Row) -> figures.Row:
    """The same for the table of ``make bench``."""
    peaks = {"aggregator": row.peak_mb, "worker": row.workers_mb, "broker": row.broker_mb}
    return figures.Row(
        workload=f"workers {row.num_workers}, digits",
        system=f"{figures.FEDMQ}, {row.over}",
        value=figures.Spread.of(row.rounds_s[1:] or row.rounds_s),
        usage=figures.Usage(peak_mb={role: peak for role, peak in peaks.items() if peak is not None}),
    )


def _embedded(num_workers: int, num_rounds: int, jobs: int, *more: str) -> Row:
    with tempfile.TemporaryDirectory(prefix="many-") as folder:
        state = Path(folder) / "state"
        flags = ["--task", _TASK, "--rounds", str(num_rounds), "--state", str(state), "--no-baselines", *more]
        peak = _run("simulation.cli", *flags, "--workers", str(num_workers), "--jobs", str(jobs), folder=Path(folder))
        kind = f"embedded, {_SAMPLE} a round" if more else "embedded"
        over = kind if jobs == 1 else f"{kind}, {jobs} jobs"
        return Row(over=over, num_workers=num_workers, peak_mb=peak, **_result(state))


def _connected(num_workers: int, num_rounds: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="many-") as text:
        folder = Path(text)
        crowd, peak = connections.measured(_TASK, num_workers, num_rounds, folder)
        return Row(
            over="RabbitMQ",
            num_workers=num_workers,
            peak_mb=peak,
            workers_mb=crowd.workers_mb,
            broker_mb=crowd.peak_mb,
            crowd=crowd,
            **_result(folder / "state"),
        )


def _run(module: str, *flags: str, folder: Path) -> float:
    """Runs a command to its end; returns the peak of its memory, or that of its largest child, in MB."""
    log = folder / f"{module}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{module} ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
    return usage.ru_maxrss / 1024


def _result(state: Path) -> dict[str, Any]:
    summary = json.loads((state / "summary.json").read_text(encoding="utf-8"))
    closed = {(row["closed_by"], row["folded"]) for row in summary["rounds"]}
    if len(closed) != 1 or next(iter(closed))[0] != "quorum":
        raise Failed(f"not all rounds ended with all workers: {closed}")
    return {
        "rounds_s": tuple(row["seconds"] for row in summary["rounds"]),
        "model_sha256": summary["final"]["model_sha256"],
    }


# -- reporting -----------------------------------------------------------------------------------------------


def table_of(measured: Sequence[Row]) -> Table:
    table = Table(title=f"{_TASK}, a round with all workers")
    columns = ("over", "workers", "s/round", "ms/worker", "1st round s", "aggregator MB", "workers MB", "broker MB")
    for name in columns:
        table.add_column(name, justify="left" if name == "over" else "right", no_wrap=name == "over")
    for row in measured:
        table.add_row(
            row.over,
            str(row.num_workers),
            f"{row.round_s:.3f}",
            f"{1000 * row.round_s / row.num_workers:.2f}",
            f"{row.rounds_s[0]:.2f}",
            f"{row.peak_mb:.0f}",
            *("" if value is None else f"{value:.0f}" for value in (row.workers_mb, row.broker_mb)),
        )
    return table


def table_of_brokers(measured: Sequence[Row]) -> Table:
    """What each worker costs RabbitMQ."""
    table = Table(title="a RabbitMQ with so many workers", caption="KB: all that goes in and out of the broker")
    columns = ("workers", "connections", "MB/worker", "idle MB", "CPU s/round", "KB/worker/round", "idle CPU, cores")
    for name in columns:
        table.add_column(name, justify="right")
    for row in measured:
        if row.crowd is not None:
            table.add_row(
                str(row.num_workers),
                str(row.crowd.num_connections),
                f"{row.crowd.per_worker_mb(row.num_workers):.2f}",
                f"{row.crowd.idle_mb:.0f}",
                f"{row.crowd.cpu_s / len(row.rounds_s):.2f}",
                f"{row.crowd.num_bytes / row.num_workers / len(row.rounds_s) / 1000:.0f}",
                f"{row.crowd.idle_cpu:.3f}",
            )
    return table


def plot(measured: Sequence[Row], path: Path) -> None:
    """Seconds a round and peak memory over workers, one line for each broker; the format is the name's ending."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (time_axes, memory_axes) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for over in dict.fromkeys(row.over for row in measured):
        own = [row for row in measured if row.over == over]
        counts = [row.num_workers for row in own]
        time_axes.plot(counts, [row.round_s for row in own], "o-", label=over)
        memory_axes.plot(counts, [row.peak_mb for row in own], "o-", label=f"{over}: aggregator")
        if own[0].broker_mb is not None:
            memory_axes.plot(counts, [row.broker_mb or 0.0 for row in own], "o--", label="RabbitMQ: broker")
    time_axes.set(xlabel="workers", ylabel="seconds a round", title="a round of digits")
    memory_axes.set(xlabel="workers", ylabel="MB", title="peak memory", ylim=(0, None))
    for axes in (time_axes, memory_axes):
        axes.set_xlim(0, None)
        axes.grid(alpha=0.3)
        axes.legend()
    time_axes.set_ylim(0, None)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.many_workers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--embedded", type=_counts, default=_EMBEDDED, help="numbers of workers, such as 10,100")
    parser.add_argument("--sampled", type=_counts, default=_SAMPLED, help=f"the same, with --sample {_SAMPLE}")
    parser.add_argument("--connected", type=_counts, default=_CONNECTED, help="the same, over a RabbitMQ; '' for none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="training processes of the embedded ones")
    parser.add_argument("--json", type=Path, help="write the rows to this file, too")
    parser.add_argument("--plot", type=Path, help="draw them, as .svg or .png; needs pip install 'fedmq[bench]'")
    given = parser.parse_args(argv)
    console = Console()
    measured: list[Row] = []
    found = rows(
        embedded=given.embedded,
        sampled=given.sampled,
        connected=given.connected,
        num_rounds=given.rounds,
        jobs=given.jobs,
    )
    for row in found:
        console.print(f"{row.over}, {row.num_workers} workers: {row.round_s:.3f} s a round", highlight=False)
        measured.append(row)
    console.print(table_of(measured))
    if any(row.crowd for row in measured):
        console.print(table_of_brokers(measured))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in measured], indent=2) + "\n", encoding="utf-8")
    if given.plot:
        plot(measured, given.plot)
    return 0


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


if __name__ == "__main__":
    raise SystemExit(main())
