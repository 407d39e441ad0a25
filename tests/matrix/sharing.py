"""How much of the matrix is gone through: all, or a part in which all algorithms together come by all points."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from matrix.algorithms import ALGORITHMS, Algorithm
from matrix.cells import Cell, row_of
from matrix.disturbances import DISTURBANCES, Disturbance, Point
from matrix.federation import Way

_SPOOL, _SUM = "aggregator.spool", "aggregator.rounds.exact_sum"


def whole_row(algorithm: Algorithm, *, most: int | None) -> list[Cell]:
    """An algorithm at ``most`` calls of all points; None: at each. Nothing is logged in this process any more."""
    logging.disable(logging.CRITICAL)
    return row_of(algorithm, DISTURBANCES, most=most)


def part_of_row(algorithm: Algorithm) -> list[Cell]:
    """An algorithm at one call of its own points. Nothing is logged in this process any more."""
    logging.disable(logging.CRITICAL)
    return row_of(algorithm, some_of(algorithm), share=share_of, most=1)


def share_of(algorithm: Algorithm, points: Sequence[Point]) -> list[Point]:
    """Each point in turn is another algorithm's; those of the spool, and of the sum, only of those that have one."""
    found = []
    for kind in (_SPOOL, _SUM, ""):
        able = [each for each in ALGORITHMS if _has(each, kind)]
        if algorithm in able:
            own = [point for point in points if _kind_of(point) == kind]
            found += own[able.index(algorithm) :: len(able)]
    return found


def some_of(algorithm: Algorithm) -> list[Disturbance]:
    """One way of each disturbance, another one for each algorithm; and of the compressions one, or none."""
    number = ALGORITHMS.index(algorithm)
    compressed = [each for each in DISTURBANCES if each.undisturbed != Way()]
    left_out = [each for index, each in enumerate(compressed) if index != number % (2 * len(compressed))]
    return [
        replace(each, ways=each.ways[number % len(each.ways) :][:1] if each.ways else ())
        for each in DISTURBANCES
        if each not in left_out
    ]


def _has(algorithm: Algorithm, kind: str) -> bool:
    return not kind or ("robust" in algorithm.settings) == (kind == _SPOOL)


def _kind_of(point: Point) -> str:
    return next((kind for kind in (_SPOOL, _SUM) if point.target.startswith(kind)), "")
