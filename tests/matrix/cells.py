"""One cell of the matrix: an algorithm under a disturbance, in all ways that it has."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matrix.algorithms import Algorithm
from matrix.disturbances import Calls, Disturbance, Point
from matrix.federation import Federation, Way
from matrix.outcome import Outcome
from pydantic import ValidationError

Known = dict[Way, tuple[Outcome, Calls]]
Share = Callable[[Algorithm, Sequence[Point]], Sequence[Point]]
"""The points at which this algorithm is disturbed, of those that there are."""


@dataclass(slots=True)
class Cell:
    """What came of it. Nothing ran if it is ``refused``, which is why, or if it has no point."""

    algorithm: str
    disturbance: str
    digest: str = ""
    num_runs: int = 0
    refused: str = ""
    differing: list[str] = field(default_factory=list)
    """Each run that did not end as the undisturbed one, with what is wrong."""

    def __str__(self) -> str:
        if self.refused:
            return "–"
        if not self.num_runs:
            return ""
        return f"{len(self.differing)} of {self.num_runs} differ" if self.differing else f"= {self.num_runs}"


def everything(algorithm: Algorithm, points: Sequence[Point]) -> Sequence[Point]:
    return points


def row_of(
    algorithm: Algorithm,
    disturbances: Sequence[Disturbance],
    *,
    share: Share = everything,
    most: int | None,
) -> list[Cell]:
    """The cells of one algorithm. ``most``: calls at which it is disturbed for each point; None: all."""
    torch.set_num_threads(1)
    known: Known = {}
    return [_cell(algorithm, each, known, share(algorithm, each.points), most) for each in disturbances]


def _cell(algorithm: Algorithm, of: Disturbance, known: Known, points: Sequence[Point], most: int | None) -> Cell:
    cell = Cell(algorithm.name, of.name)
    try:
        expected, _ = _counted(algorithm, of.undisturbed, known)
        cell.digest = expected.digest
        if expected.problems:
            cell.differing.append(f"undisturbed: {'; '.join(expected.problems)}")
        ways = list(of.ways)
        if of.base is not None and points:
            outcome, calls = _counted(algorithm, of.base, known)
            _note(cell, of.base, outcome, expected)
            ways += of.faulty(calls, points, most=most)
        for way in ways:
            outcome, is_moot = _run(algorithm, way)
            if not is_moot:
                _note(cell, way, outcome, expected)
    except ValidationError as error:
        cell.refused = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
    return cell


def _note(cell: Cell, way: Way, outcome: Outcome, expected: Outcome) -> None:
    cell.num_runs += 1
    problems = list(outcome.problems)
    if outcome.digest != expected.digest and not problems:
        problems.append(f"the digest is {outcome.digest[:12]}, not {expected.digest[:12]}")
    if problems:
        cell.differing.append(f"{way.fault or way}: {'; '.join(problems)}")


def _run(algorithm: Algorithm, way: Way) -> tuple[Outcome, bool]:
    with _Folder() as folder:
        federation = Federation(folder, algorithm, way)
        return federation.run(), federation.is_moot


def _counted(algorithm: Algorithm, way: Way, known: Known) -> tuple[Outcome, Calls]:
    """Of a run without a fault, and the calls in it; each way once."""
    if way not in known:
        with _Folder() as folder:
            known[way] = Federation(folder, algorithm, way).counted()
    return known[way]


class _Folder:
    """A new one, in memory where that can be had: a kill leaves what the kernel has, whatever the disk has of it."""

    def __enter__(self) -> Path:
        memory = Path("/dev/shm")
        self._path = Path(tempfile.mkdtemp(prefix="fedmq-matrix-", dir=memory if memory.is_dir() else None))
        return self._path

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
