"""Killed at any boundary of the commit path and started again, a run ends with the bits of an undisturbed one.

Cells run some at a time, since each mostly waits; a test waits for its own.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from crash.cells import Cell, Outcome, run_cell
from crash.points import (
    BLOB,
    CLOSE_ROUND,
    CORRECTING,
    CRASH_POINTS,
    IN_A_ROW,
    IN_RECOVERY,
    PARTIAL,
    PARTIAL_IN_TURN,
    REMEMBERING,
    SAMPLING,
    SIZES,
    SMALL,
    STEPPING,
    TOYS,
)
from rabbitmq_node import RabbitNode

pytest_plugins = ["crash.reporting"]
pytestmark = pytest.mark.timeout(300)

NUM_LANES = min(12, 2 * (os.cpu_count() or 2) + 1)

ONCE = [Cell(size, (point,)) for point in CRASH_POINTS for size in SIZES if point.applies(size)]
IN_TURN = [
    *(Cell(BLOB, points) for points in IN_RECOVERY),
    *(Cell(size, points) for points in IN_A_ROW for size in SIZES),
]

OPTIMIZER = "fedadam"
"""It remembers two values of each element."""
WITH_OTHERS = [
    *(Cell(SMALL, (point,), optimizer=OPTIMIZER) for point in STEPPING),
    *(Cell(SMALL, (point,), toys=toy) for toy, points in TOYS.items() for point in points),
]

CORRECTION = "scaffold"
CORRECTED = [Cell(SMALL, points, correction=CORRECTION) for points in CORRECTING]

SAMPLE = "0.95"
"""Both workers are below it in each of the rounds, so that a run takes as long as any other."""
SAMPLED = [Cell(SMALL, (point,), sample=SAMPLE) for point in SAMPLING]

REMEMBERED = [Cell(SMALL, (point,), remembers=True) for point in REMEMBERING]

SHARDED = [
    *(Cell(size, (point,), num_shards=1) for point in PARTIAL for size in SIZES if point.applies(size)),
    *(Cell(size, points, num_shards=1) for points in PARTIAL_IN_TURN for size in SIZES),
    *(
        Cell(SMALL, (point,), num_shards=1, optimizer=OPTIMIZER)
        for point in STEPPING
        if point.target == CLOSE_ROUND and "last" not in point.name
    ),
]

Record = Callable[[str, object], None]
"""What `record_property` is; told the name of a table, and (row, column). See reporting.py."""


class Lanes:
    """Runs cells in the background, as many at a time as the machine bears."""

    def __init__(self, node: RabbitNode, folder: Path) -> None:
        self._node, self._folder = node, folder
        self._numbers = count()
        self._pool = ThreadPoolExecutor(NUM_LANES)
        self._outcomes: dict[Cell, Future[Outcome]] = {}
        self._expected: dict[tuple[str, str, str, str, bool], Outcome] = {}
        """By ``_kind_of``: what comes of it when nothing disturbs."""

    def undisturbed(self) -> None:
        """Learns what is expected, which is the same for both sizes, and another digest of each kind."""
        cells = [*(Cell(size, ()) for size in SIZES), *(Cell(SMALL, (), toys=toy) for toy in TOYS)]
        cells += [Cell(SMALL, (), optimizer=OPTIMIZER), Cell(SMALL, (), remembers=True)]
        cells += [Cell(SMALL, (), correction=CORRECTION), Cell(SMALL, (), sample=SAMPLE)]
        for cell, future in [(cell, self._submit(cell)) for cell in cells]:
            outcome = future.result()
            assert outcome.is_ok, str(outcome)
            assert outcome.sha256 is not None
            expected = self._expected.setdefault(_kind_of(cell), outcome)
            assert (expected.sha256, expected.best) == (outcome.sha256, outcome.best)

    def begin(self, cells: list[Cell]) -> None:
        self._outcomes |= {cell: self._submit(cell) for cell in cells}

    def outcome(self, cell: Cell) -> Outcome:
        return self._outcomes[cell].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, cell: Cell) -> Future[Outcome]:
        number = next(self._numbers)
        folder, queue = self._folder / str(number), f"crash-{os.getpid()}-{number}"
        expected = self._expected.get(_kind_of(cell))
        return self._pool.submit(run_cell, cell, folder, url=self._node.url, queue=queue, expected=expected)


def _kind_of(cell: Cell) -> tuple[str, str, str, str, bool]:
    return cell.toys, cell.optimizer, cell.correction, cell.sample, cell.remembers


@pytest.fixture(scope="module")
def lanes(
    request: pytest.FixtureRequest, node: RabbitNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lanes]:
    """Every cell of this module that was not deselected, on its way."""
    running = Lanes(node, tmp_path_factory.mktemp("crash"))
    wanted = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    try:
        running.undisturbed()
        params = [item.callspec.params["cell"] for item in wanted]
        running.begin([cell for cell in params if isinstance(cell, Cell)])
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("cell", ONCE, ids=lambda cell: cell.name)
def test_killed_at_a_point_it_ends_with_the_same_bits(cell: Cell, lanes: Lanes, record_property: Record) -> None:
    record_property("crash once", (f"{cell.points[0].member}: {cell.points[0].name}", cell.size))
    outcome = lanes.outcome(cell)
    assert outcome.is_ok, str(outcome)


@pytest.mark.parametrize("cell", WITH_OTHERS, ids=lambda cell: cell.name)
def test_with_another_step_or_accumulator_it_ends_with_the_same_bits(
    cell: Cell, lanes: Lanes, record_property: Record
) -> None:
    kind = cell.toys or cell.optimizer
    record_property("crash with others", (f"{cell.points[0].member}: {cell.points[0].name}", kind))
    outcome = lanes.outcome(cell)
    assert outcome.is_ok, str(outcome)


@pytest.mark.parametrize("cell", CORRECTED, ids=lambda cell: cell.name)
def test_with_a_correction_what_both_ends_keep_fits_and_it_ends_with_the_same_bits(
    cell: Cell, lanes: Lanes, record_property: Record
) -> None:
    record_property("crash with a correction", (cell.name.partition(" [")[0], cell.size))
    outcome = lanes.outcome(cell)
    assert outcome.is_ok, str(outcome)


@pytest.mark.parametrize("cell", SAMPLED, ids=lambda cell: cell.name)
def test_with_a_sample_of_the_workers_it_ends_with_the_same_bits(
    cell: Cell, lanes: Lanes, record_property: Record
) -> None:
    record_property("crash of a sample", (f"{cell.points[0].member}: {cell.points[0].name}", cell.size))
    outcome = lanes.outcome(cell)
    assert outcome.is_ok, str(outcome)


@pytest.mark.parametrize("cell", REMEMBERED, ids=lambda cell: cell.name)
def test_with_sites_that_remember_diverge_and_measure_it_ends_with_the_same_bits_and_best(
    cell: Cell, lanes: Lanes, record_property: Record
) -> None:
    record_property("crash of sites that remember", (f"{cell.points[0].member}: {cell.points[0].name}", cell.size))
    outcome = lanes.outcome(cell)
    assert outcome.is_ok, str(outcome)


@pytest.mark.parametrize("cell", IN_TURN, ids=lambda cell: cell.name)
def test_killed_again_while_it_goes_on_it_ends_with_the_same_bits(
    cell: Cell, lanes: Lanes, record_property: Record
) -> None:
    record_property("crash in turn", (cell.name.partition(" [")[0], cell.size))
    outcome = lanes.outcome(cell)
    assert outcome.is_ok, str(outcome)


@pytest.mark.parametrize("cell", SHARDED, ids=lambda cell: cell.name)
def test_with_a_partial_aggregator_it_ends_with_the_same_bits(
    cell: Cell, lanes: Lanes, record_property: Record
) -> None:
    record_property("crash of partials", (cell.name.partition(" [")[0], cell.size))
    outcome = lanes.outcome(cell)
    assert outcome.is_ok, str(outcome)
    assert not outcome.left, str(outcome)
