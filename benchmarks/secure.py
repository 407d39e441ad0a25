"""What secure aggregation costs: rounds of a large model over RabbitMQ, plain and masked, in one run.

    PYTHONPATH=tests:. python -m benchmarks.secure

The training is negligible. Every process is one that a user would start; the keeper is one of them. Seconds are those
from one round to the next, CPU seconds are user and system of one process in one round.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import federation
from benchmarks.figures import MB, Row
from benchmarks.place import Place
from benchmarks.workload import Workload

RINGS = (None, "ring64", "ring32")
MOST_RATIO = {"ring64": 2.2, "ring32": 1.5}
"""Of its seconds to those of the plain round."""
MOST_KEEPER_S = 0.5
"""For each worker."""


def rows(workload: Workload, place: Place) -> dict[str | None, Row]:
    """The plain rounds, then those of each ring."""
    return {ring: federation.measure(workload, place, ring=ring) for ring in RINGS}


def show(found: dict[str | None, Row], workload: Workload, console: Console) -> None:
    title = f"{workload.num_workers} workers, {workload.num_bytes / MB:.0f} MB of float32; CPU seconds a round"
    columns = ("updates", "s a round", "lowest", "times plain", "aggregator", "worker", "keeper", "keeper a worker")
    table = Table(*columns, "broker", "aggregator's MB", "keeper's MB", title=title, title_justify="left")
    plain = found[None].value
    assert plain is not None
    for ring, row in found.items():
        spread, cpu_s, peak_mb = row.value, row.usage.cpu_s, row.usage.peak_mb
        assert spread is not None
        table.add_row(
            ring or "plain",
            f"{spread.median:.2f}",
            f"{spread.lowest:.2f}",
            f"{spread.median / plain.median:.2f}",
            f"{cpu_s['aggregator']:.2f}",
            f"{cpu_s['worker']:.2f}",
            f"{cpu_s['keeper']:.2f}" if ring else "",
            f"{cpu_s['keeper'] / workload.num_workers:.3f}" if ring else "",
            f"{cpu_s['broker']:.2f}",
            f"{peak_mb['aggregator']:.0f}",
            f"{peak_mb['keeper']:.0f}" if ring else "",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="of the model (100: 25 million parameters)")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="that count")
    parser.add_argument("--folder", type=Path, help="where state and broker write (the system's temporary folder)")
    given = parser.parse_args(arguments)
    workload = Workload(
        "secure", given.megabytes * MB, num_rounds=given.rounds, num_workers=given.workers, timeout_s=900
    )
    with tempfile.TemporaryDirectory(prefix="secure-", dir=given.folder) as folder:
        found = rows(workload, Place(Path(folder).absolute()))
    show(found, workload, Console(width=160))


if __name__ == "__main__":
    main()
