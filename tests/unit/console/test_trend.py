"""The trend of a metric."""

from console.trend import Trend
from learning.metrics import Direction


def trend_of(*values: float, direction: Direction = Direction.MAX) -> Trend:
    trend = Trend("score", direction)
    for number, value in enumerate(values, start=1):
        trend.add(number, value)
    return trend


def test_a_sparkline_goes_from_the_lowest_to_the_highest_of_the_last_values() -> None:
    assert trend_of(0, 1, 2, 3, 4, 5, 6, 7).sparkline(20) == "▁▂▃▄▅▆▇█"
    assert trend_of(9, -9, 1, 2).sparkline(2) == "▁█"
    assert trend_of(5, 5).sparkline(20) == "▄▄"
    assert trend_of().sparkline(20) == ""
    assert len(trend_of(*range(1000)).sparkline(500)) == 64


def test_an_arrow_says_where_it_goes_and_whether_that_is_good() -> None:
    assert (trend_of(1, 2).arrow, trend_of(1, 2).is_better) == ("↑", True)
    rising = trend_of(1, 2, direction=Direction.MIN)
    assert (rising.arrow, rising.is_better) == ("↑", False)
    assert (trend_of(2, 1).arrow, trend_of(2, 1).is_better) == ("↓", False)
    assert (trend_of(1, 1.00001).arrow, trend_of(1, 1.00001).is_better) == ("→", None)
    assert trend_of(1).arrow == "→"


def test_the_best_is_the_first_that_was_as_good() -> None:
    assert trend_of(1, 3, 3, 2).best == (2, 3)
    assert trend_of(3, 1, 1, 2, direction=Direction.MIN).best == (2, 1)
