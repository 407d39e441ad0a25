"""The best round so far: the same as of all rows, though few of them are read."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from unit.aggregator.closed_rounds import ClosedRounds

from aggregator.state.best_so_far import BestSoFar
from aggregator.state.early_stop import Aim, best_round
from learning.metrics import Direction

METRIC = "eval.m"


def row(number: int, value: float | None) -> dict[str, Any]:
    return {"round": number, "metrics": {}, "worker_metrics": {} if value is None else {METRIC: value}}


@given(
    closes=st.lists(
        st.lists(st.tuples(st.integers(1, 12), st.integers(0, 5)), max_size=3),
        min_size=1,
        max_size=40,
    ),
    direction=st.sampled_from(list(Direction)),
)
def test_it_is_the_best_of_all_rounds_however_late_sites_measure_their_models(
    closes: list[list[tuple[int, int]]], direction: Direction
) -> None:
    closed = ClosedRounds([])
    best, aim = BestSoFar(closed), Aim(METRIC, direction)
    rows: dict[int, dict[str, Any]] = {}
    for last, measured in enumerate(closes, start=1):
        rows[last] = row(last, None)
        late = {last - rounds_ago: float(value) for rounds_ago, value in measured if rounds_ago < last}
        rows |= {number: row(number, value) for number, value in late.items()}
        closed.rows = list(rows.values())
        best.measured(late, last=last)
        assert best.after(last, aim) == best_round(closed.rows, METRIC, direction)


def test_of_many_rounds_the_last_few_are_read_at_each_close() -> None:
    closed = ClosedRounds([row(number, number % 7) for number in range(1, 1001)])
    best, aim = BestSoFar(closed), Aim(METRIC)
    assert best.after(1000, aim) == (6, 6.0)
    assert closed.num_read == 1000
    for last in range(1001, 1011):
        closed.rows = [*closed.rows, row(last, last)]
        best.measured([last - 1], last=last)
        assert best.after(last, aim) == (last - 1, last - 1.0) if last > 1001 else (6, 6.0)
    assert closed.num_read <= 1000 + 10 * 3


def test_of_the_last_round_only_what_its_own_end_said_counts() -> None:
    closed = ClosedRounds([row(1, 1.0), row(2, 9.0)])
    assert BestSoFar(closed).after(2, Aim(METRIC)) == (1, 1.0)
