"""What secure aggregation costs: rounds of a large model over RabbitMQ, plain and masked, in one run.

    PYTHONPATH=tests:. python -m benchmarks.secure
    PYTHONPATH=tests:. python -m benchmarks.secure --paper            up to 1,000 workers, from what one mask takes
    PYTHONPATH=tests:. python -m benchmarks.secure --peers FOLDER     beside Flower's SecAgg+, both in one process

The training is negligible. Every process is one that a user would start; the keeper is one of them. Seconds are those
from one round to the next, CPU seconds are user and system of one process in one round. Flower runs in an environment
of its own in FOLDER, which is made if it is not there; one of its rounds takes minutes.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import federation
from benchmarks.figures import MB, Row
from benchmarks.masked_round import measured, median_of
from benchmarks.peers.environments import FLOWER, environment
from benchmarks.peers.foreign import SCRIPTS, environment_of
from benchmarks.place import Place
from benchmarks.workload import Workload

RINGS = (None, "ring64", "ring32")
SECAGGPLUS = ((10, 100_000, 9, 6, 5), (10, 1_000_000, 9, 6, 5), (100, 100_000, 41, 21, 1))
"""Workers, a tenth of whom is lost; parameters; for Flower the shares of a key, and how many of them it takes; and the
rounds of which the median counts, after each other in one process."""
ON_PAPER_PARAMETERS, ON_PAPER_WORKERS = (10_000, 1_000_000, 25_000_000), (10, 100, 1000)
_FEW, _MORE = 3, 8


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


# -- beside SecAgg+ ------------------------------------------------------------------------------------------


def show_beside(peers: Path, console: Console) -> None:
    home = environment(FLOWER, peers)
    columns = (
        "workers",
        "parameters",
        "",
        "CPU s a round",
        "times ring64",
        "CPU s a worker",
        "sent a worker",
        "got besides",
    )
    table = Table(*columns, "largest error", title="one process, a tenth of the workers lost", title_justify="left")
    for num, parameters, shares, threshold, num_rounds in SECAGGPLUS:
        lost = num // 10
        ours = median_of(num_rounds, num, parameters, bits=64, num_lost=lost)
        found = {
            "ring64": ours,
            "ring32": median_of(num_rounds, num, parameters, bits=32, num_lost=lost),
            f"SecAgg+, {shares} shares": _of_flower(home, num_rounds, num, parameters, lost, shares, threshold),
        }
        for name, one in found.items():
            table.add_row(
                str(num),
                f"{parameters:,}",
                name,
                f"{one['seconds']:.3f}",
                f"{one['seconds'] / ours['seconds']:.1f}",
                f"{one['client_s']:.4f}",
                f"{one['sent_bytes'] / MB:.3f} MB",
                f"{one['received_bytes'] / 1000:.1f} kB",
                f"{one['error']:.1e}",
            )
    console.print(table)


def _of_flower(home: Path, *numbers: int) -> Mapping[str, float]:
    command = [str(home / "bin" / "python"), str(SCRIPTS / "secaggplus.py"), *map(str, numbers)]
    ended = subprocess.run(command, env=environment_of(home), check=True, stdout=subprocess.PIPE)
    found: Mapping[str, float] = json.loads(ended.stdout)
    return found


# -- on paper ------------------------------------------------------------------------------------------------


def show_on_paper(console: Console) -> None:
    """What one more worker takes, measured on few, times how many there are."""
    columns = ("ring", "parameters", "a worker's CPU s", "keeper's a worker")
    more = (f"keeper's s, {num:,} workers" for num in ON_PAPER_WORKERS)
    table = Table(*columns, *more, "keeper's answer", title_justify="left")
    for bits in (64, 32):
        for parameters in ON_PAPER_PARAMETERS:
            few, many = (measured(num, parameters, bits=bits, num_lost=0) for num in (_FEW, _MORE))
            each = (many["keeper_s"] - few["keeper_s"]) / (_MORE - _FEW)
            rest = max(0.0, few["keeper_s"] - _FEW * each)
            table.add_row(
                f"ring{bits}",
                f"{parameters:,}",
                f"{many['client_s']:.4f}",
                f"{each:.4f}",
                *(f"{rest + num * each:.2f}" for num in ON_PAPER_WORKERS),
                f"{parameters * bits / 8 / MB:.2f} MB",
            )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="of the model (100: 25 million parameters)")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="that count")
    parser.add_argument("--folder", type=Path, help="where state and broker write (the system's temporary folder)")
    parser.add_argument("--paper", action="store_true", help="in place of that, what many workers take, on paper")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="in place of that, beside Flower's SecAgg+")
    given = parser.parse_args(arguments)
    console = Console(width=160)
    if given.peers is not None:
        show_beside(given.peers, console)
        return
    if given.paper:
        show_on_paper(console)
        return
    workload = Workload(
        "secure", given.megabytes * MB, num_rounds=given.rounds, num_workers=given.workers, timeout_s=900
    )
    with tempfile.TemporaryDirectory(prefix="secure-", dir=given.folder) as folder:
        found = rows(workload, Place(Path(folder).absolute()))
    show(found, workload, console)


if __name__ == "__main__":
    main()
