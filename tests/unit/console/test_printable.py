"""What is shown of metrics."""

import math

import pytest

from console.printable import metric_text, metrics_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98765, "0.9877"),
        (0.0, "0.0000"),
        (5e-05, "5e-05"),
        (-0.000123, "-0.000123"),
        (45.0, "45.0000"),
        (1234567.0, "1.235e+06"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_a_metric_shows_digits_that_say_something(value: float, text: str) -> None:
    assert metric_text(value) == text


def test_metrics_are_on_one_line() -> None:
    assert metrics_text({"loss": 0.5, "lr": 5e-05}) == "loss 0.5000  lr 5e-05"
