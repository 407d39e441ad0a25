"""The matrix of all algorithms and disturbances, as a table.

    python -m matrix                          every algorithm, disturbed at three calls of each point
    python -m matrix --most 0                 at every call
    python -m matrix --shared                 each point at one algorithm only: a minute, as in the tests
    python -m matrix --only fedadam           one of them; may be given several times
    python -m matrix --json matrix.json       the cells, with the digests, as a file too

The exit code is 1 if any run ends with other bits than the undisturbed one, or leaves anything behind.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from matrix.algorithms import ALGORITHMS
from matrix.cells import Cell
from matrix.sharing import part_of_row, whole_row
from matrix.table import legend, table_of
from rich.console import Console


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    chosen = [each for each in ALGORITHMS if not arguments.only or each.name in arguments.only]
    console = Console()
    rows: list[list[Cell]] = []
    kind = part_of_row if arguments.shared else partial(whole_row, most=arguments.most or None)
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(kind, chosen):
            rows.append(row)
            print(f"{len(rows)}/{len(chosen)} {row[0].algorithm}: {', '.join(map(str, row))}", file=sys.stderr)
    console.print(table_of(rows))
    for line in legend(rows):
        console.print(line, markup=False, highlight=False)
    if arguments.json is not None:
        cells = [dataclasses.asdict(cell) for row in rows for cell in row]
        arguments.json.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    return int(any(cell.differing for row in rows for cell in row))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("matrix", description=(__doc__ or "").partition("\n")[0])
    names = [each.name for each in ALGORITHMS]
    parser.add_argument("--only", action="append", choices=names, metavar="ALGORITHM", help=f"of {', '.join(names)}")
    parser.add_argument(
        "--most", type=int, default=3, help="calls of each point at which a run is disturbed; 0: all (default: 3)"
    )
    parser.add_argument("--shared", action="store_true", help="disturb at each point only one of the algorithms, once")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for each core)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the cells go as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
