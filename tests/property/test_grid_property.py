"""Numbers on the grid of the exact sum: what is reckoned with them is what the sum does, to the last bit."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rounds.exact_sum import ExactSum
from broker.states.grid import OnGrid, to_grid
from broker.wire.specs import TensorSpec

NUMBERS = st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3)


def value(high: int, low: int) -> Fraction:
    return Fraction(high, 2**32) + Fraction(low, 2**58)


def values(numbers: OnGrid) -> list[Fraction]:
    return [value(int(high), int(low)) for high, low in zip(numbers.high, numbers.low, strict=True)]


@given(
    st.lists(st.tuples(NUMBERS, st.floats(1e-6, 1e4)), min_size=1, max_size=5), st.sampled_from(["float32", "float64"])
)
def test_a_rounded_product_is_what_the_exact_sum_adds(updates: list[tuple[list[float], float]], dtype: str) -> None:
    total = ExactSum((TensorSpec("x", dtype, (3,)),))
    own = OnGrid.rounded(np.zeros(3))
    for numbers, weight in updates:
        delta = np.array(numbers, dtype)
        total.add(0, delta.tobytes(), weight)
        total.end_update()
        own = own.plus(OnGrid.rounded(delta, weight))
    assert values(own) == values(total.exactly(total.specs, 0, 3))


@given(NUMBERS, NUMBERS, st.integers(-1000, 1000))
def test_what_is_kept_as_floats_is_the_same_number(one: list[float], other: list[float], times: int) -> None:
    numbers = OnGrid.rounded(np.array(one), 0.7).plus(OnGrid.rounded(np.array(other), 1e-3), times)
    nearest, rest = numbers.floats()
    assert values(OnGrid.of(nearest, rest)) == values(numbers)
    assert [Fraction(a) + Fraction(b) for a, b in zip(nearest.tolist(), rest.tolist(), strict=True)] == values(numbers)
    assert list(nearest) == [float(each) for each in values(numbers)]


@given(st.floats(-1e6, 1e6, width=32))
def test_a_float32_on_the_grid_stays_a_float32_and_loses_nothing_there(number: float) -> None:
    on_grid = to_grid(np.array([number]))
    assert on_grid.astype(np.float32).astype(np.float64) == on_grid
    assert values(OnGrid.rounded(on_grid)) == [Fraction(float(on_grid[0]))]
    assert abs(on_grid[0] - number) <= 2.0**-59


def test_what_leaves_the_range_is_an_error_and_no_other_number() -> None:
    large = OnGrid.rounded(np.array([2.0**29]))
    with pytest.raises(OverflowError, match=r"reaches 1\.07e\+09"):
        large.plus(large).floats()
    with pytest.raises(OverflowError, match="times 100"):
        large.plus(large, 100)
    with pytest.raises(OverflowError):
        OnGrid.rounded(np.array([np.inf])).floats()
    assert values(OnGrid.rounded(np.array([np.nan]))) == [0]
