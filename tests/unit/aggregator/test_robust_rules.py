"""The robust rules as pure functions: their golden traces to 12 digits, ties, and where they break down."""

from collections.abc import Sequence

import numpy as np
import pytest

from aggregator.robust import Bulyan, Choosing, Columnwise, GeometricMedian, Krum, Median, Robust, Rule, Trimmed
from aggregator.robust.krum import krum_scores, multi_krum

SEVEN = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5), (10, 10), (10, 10.5)]
FIVE = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)]
GOOD = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)]
FAR = (1e6, 1e6)
Points = Sequence[Sequence[float]]


def distances_of(points: Points) -> np.ndarray:
    x = np.array(points, np.float64)
    return np.sum((x[:, None, :] - x[None, :, :]) ** 2, axis=2)


def combined(rule: Rule, points: Points) -> np.ndarray:
    """What the rule makes of points, as the accumulator of updates has it made."""
    x = np.array(points, np.float64)
    weights = np.ones(len(x))
    if isinstance(rule, Choosing):
        weights = np.array(rule.choose(distances_of(points)).weights)
    if isinstance(rule, Columnwise):
        return rule.combine(np.sort(x[weights > 0], axis=0))
    return weights @ x / weights.sum()


def column(values: Sequence[float]) -> np.ndarray:
    return np.sort(np.array(values, np.float64))[:, None]


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        (Median(), [1, 2, 3, 100], 2.5),
        (Trimmed(k=1), [1, 2, 3, 100], 2.5),
        (Trimmed(k=0), [1, 2, 3, 100], 26.5),
        (Median(), [1, 1, 2, 2], 1.5),
        (Trimmed(k=1), [1, 1, 2, 2], 1.5),
        (Median(), [1, 1, 1, 5, 9], 1),
        (Trimmed(k=1), [1, 1, 1, 5, 9], 7 / 3),
        (Trimmed(share=0.2), [1, 1, 1, 5, 9], 7 / 3),
        (Bulyan(f=1), [0, 1, 2, 3, 100], 2),  # theta 5 of the nearest 3
        (Bulyan(f=1), [0, 1, 2, 3, 4], 2),  # 1 2 3, both 0 and 4 are farther
        (Bulyan(f=1), [0, 2, 2, 4], 2),
        (Bulyan(f=1), [-3, 0, 1, 1], 0.5),  # 0 and both 1 are equally near to 0.5
    ],
)
def test_a_column_gives_the_value_of_the_trace(rule: Columnwise, values: list[float], expected: float) -> None:
    assert rule.combine(column(values))[0] == pytest.approx(expected, abs=1e-12)


def test_krum_s_scores_order_and_means_are_those_of_the_trace() -> None:
    scores = krum_scores(distances_of(SEVEN), f=2)
    assert scores == pytest.approx([2.5, 2.5, 2.5, 2.5, 1.5, 342.75, 361.75], abs=1e-12)
    assert multi_krum(scores, 3) == [4, 0, 1]
    assert combined(Krum(f=2, m=1), SEVEN) == pytest.approx([0.5, 0.5], abs=1e-12)
    assert combined(Krum(f=2, m=3), SEVEN) == pytest.approx([0.5, 1 / 6], abs=1e-12)
    assert combined(Krum(f=2, m=5), SEVEN) == pytest.approx([0.5, 0.5], abs=1e-12)


def test_krum_takes_the_first_of_equal_scores_and_compares_with_others_only() -> None:
    scores = krum_scores(distances_of(FIVE), f=1)
    assert scores == pytest.approx([1, 2, 2, 2, 1], abs=1e-12)
    assert multi_krum(scores, 5) == [0, 4, 1, 2, 3]


def test_the_geometric_median_comes_by_the_iterates_of_the_trace() -> None:
    points = [(0, 0), (1, 0), (0, 1), (10, 10)]
    iterates = [1.324169665212, 0.743584186654, 0.570094503486, 0.522397624814]
    for number, expected in enumerate(iterates, start=1):
        found = combined(GeometricMedian(iterations=number), points)
        assert found == pytest.approx([expected, expected], abs=1e-12)
    coefficients = GeometricMedian(iterations=4).choose(distances_of(points)).weights
    expected_coefficients = [0.301318184514, 0.340232659476, 0.340232659476, 0.018216496534]
    assert coefficients == pytest.approx(expected_coefficients, abs=1e-12)
    assert combined(GeometricMedian(iterations=200), points) == pytest.approx([0.5, 0.5], abs=1e-6)


def test_the_geometric_median_of_a_triangle_and_of_a_line_is_the_known_one() -> None:
    triangle = [(0, 0), (1, 0), (0.5, 3**0.5 / 2)]
    assert combined(GeometricMedian(), triangle) == pytest.approx([0.5, 3**0.5 / 6], abs=1e-12)
    assert combined(GeometricMedian(iterations=200), [(0,), (1,), (5,)]) == pytest.approx([1], abs=1e-5)


def test_the_geometric_median_bears_points_that_are_the_same() -> None:
    assert combined(GeometricMedian(iterations=30), [(1, 1)] * 3 + [(9, 9)]) == pytest.approx([1, 1], abs=1e-5)
    assert combined(GeometricMedian(), [(1, 1)] * 3) == pytest.approx([1, 1], abs=0)


BREAKDOWN = [
    (Median(), [0.75, 1, 1, 1, 500000.5]),
    (Krum(f=1), [0.5]),
    (Krum(f=2), [None, 0.5]),
    (Trimmed(k=1), [0.625]),
    (Trimmed(k=2), [None, 5 / 6]),
    (Trimmed(k=3), [None, None, 1]),
    (Trimmed(k=4), [None, None, None, 1]),
    (GeometricMedian(iterations=3000), [0.500083864, 0.788675135, 0.999999707, 1.000000414, 500000.25]),
]


@pytest.mark.parametrize(("rule", "first_coordinates"), BREAKDOWN, ids=lambda value: type(value).__name__)
def test_it_breaks_down_where_the_trace_says(rule: Rule, first_coordinates: list[float | None]) -> None:
    for num_far, expected in enumerate(first_coordinates, start=1):
        if expected is not None:
            found = combined(rule, [*GOOD, *([FAR] * num_far)])[0]
            assert found == pytest.approx(expected, rel=1e-8 if isinstance(rule, GeometricMedian) else 1e-12)


def test_bulyan_takes_the_far_ones_last_and_bounds_each_coordinate() -> None:
    points = [*GOOD, (0.4, 0.4), FAR]
    choice = Bulyan(f=1).choose(distances_of(points))
    assert len([weight for weight in choice.weights if weight]) == 5
    assert choice.weights[6] == 0
    assert max(choice.scores) == choice.scores[6]
    hidden = [*GOOD, (0.4, 0.4), (0.5, 3.0)]  # near enough for Krum to choose it, but far in one coordinate
    assert combined(Bulyan(f=1), hidden)[1] < 1


@pytest.mark.parametrize(
    ("rule", "fewest"),
    [
        (Median(), 3),
        (GeometricMedian(), 3),
        (Krum(f=0), 3),
        (Krum(f=2), 7),
        (Krum(f=2, m=6), 8),
        (Bulyan(f=0), 3),
        (Bulyan(f=2), 11),
        (Trimmed(k=0), 1),
        (Trimmed(k=2), 5),
        (Trimmed(share=0.2), 3),
        (Trimmed(share=0.45), 19),
    ],
)
def test_the_fewest_updates_are_those_from_which_on_it_always_holds(rule: Rule, fewest: int) -> None:
    assert rule.fewest == fewest
    if isinstance(rule, Trimmed):
        assert all(num > 2 * rule.num_cut(num) for num in range(fewest, fewest + 500))
        assert fewest == 1 or fewest - 1 <= 2 * rule.num_cut(fewest - 1)


def test_a_share_is_rounded_up_but_not_beyond_a_whole_number() -> None:
    assert [Trimmed(share=0.2).num_cut(num) for num in (3, 4, 5, 6, 10)] == [1, 1, 1, 2, 2]
    assert Trimmed(share=0.07).num_cut(100) == 7


@pytest.mark.parametrize("rule", [Median(), Trimmed(k=2), Bulyan(f=1)])
def test_a_column_does_not_depend_on_its_neighbours(rule: Columnwise) -> None:
    columns = np.sort(np.random.default_rng(3).standard_normal((9, 500)), axis=0)
    whole = rule.combine(columns)
    parts = [rule.combine(np.ascontiguousarray(columns[:, start : start + 7])) for start in range(0, 500, 7)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("rule", [Median(), Trimmed(k=2), Bulyan(f=1), Krum(f=2, m=3), GeometricMedian()])
@pytest.mark.parametrize("num", [9, 10])
def test_the_result_lies_between_the_values_that_there_are(rule: Rule, num: int) -> None:
    points = np.random.default_rng(num).standard_normal((num, 40))
    found = combined(rule, points.tolist())
    assert (found >= points.min(axis=0)).all()
    assert (found <= points.max(axis=0)).all()


@pytest.mark.parametrize(
    "text",
    ["none", "median", "trimmed:share=0.2", "trimmed:k=2", "krum", "krum:f=2,m=6", "bulyan:f=2", "geometric-median"],
)
def test_a_rule_s_text_reads_back(text: str) -> None:
    assert str(Robust.parse(text)) == text
    assert Robust.parse("trimmed:0.2") == Robust.parse("trimmed:share=0.2")
    assert Robust.parse("geometric-median:iterations=5,nu=1e-3").rule == GeometricMedian(5, 1e-3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mean", "known are median, trimmed, krum, bulyan, geometric-median"),
        ("krum:g=1", "krum has no parameter 'g'; it has f, m"),
        ("krum:f=-1", "greater than or equal to 0"),
        ("krum:m=0", "greater than or equal to 1"),
        ("trimmed", "give a share below 0.5"),
        ("trimmed:0.5", "less than 0.5"),
        ("trimmed:0.2,k=1", "give a share below 0.5"),
        ("median:f=1", "it has no parameters"),
        ("geometric-median:nu=0", "greater than 0"),
        ("geometric-median:nu=nan", "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_is_known(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Robust.parse(text)
