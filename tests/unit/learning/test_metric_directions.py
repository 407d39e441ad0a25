"""What is said of metrics, without any run."""

import pytest

from learning.metrics import USUAL_METRICS, Direction, Measured, bare, rank

MIN, MAX = Direction.MIN, Direction.MAX


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("loss", MIN),
        ("eval.loss", MIN),
        ("error_rate", MIN),
        ("val_mse", MIN),
        ("mae", MIN),
        ("perplexity", MIN),
        ("accuracy", MAX),
        ("train.accuracy", MAX),
        ("f1", MAX),
        ("seconds_to_relapse", MAX),
    ],
)
def test_the_name_of_a_metric_tells_which_way_it_becomes_better(metric: str, direction: Direction) -> None:
    assert Direction.of(metric) is direction


@pytest.mark.parametrize(
    ("direction", "value", "than", "is_better"),
    [
        (MIN, 1.0, 2.0, True),
        (MIN, 2.0, 1.0, False),
        (MIN, 1.0, 1.0, False),
        (MAX, 1.0, 2.0, False),
        (MAX, 2.0, 1.0, True),
        (MAX, 1.0, 1.0, False),
        (MAX, -2.0, -1.0, False),
    ],
)
def test_better_is_less_or_more_and_never_the_same(
    direction: Direction, value: float, than: float, is_better: bool
) -> None:
    assert direction.is_better(value, than) is is_better


@pytest.mark.parametrize("metric", ["accuracy", "eval.accuracy", "train.accuracy"])
def test_a_metric_has_one_name_wherever_it_is_measured(metric: str) -> None:
    assert bare(metric) == "accuracy"


def test_usual_metrics_stand_before_others_which_keep_their_order() -> None:
    shown = sorted(["zeta", "train.loss", "loss", "f1", "eval.accuracy", "accuracy"], key=rank)
    assert shown == ["accuracy", "loss", "eval.accuracy", "train.loss", "zeta", "f1"]
    assert sorted(USUAL_METRICS, key=rank) == list(USUAL_METRICS)


@pytest.mark.parametrize(
    ("recorded", "measured"),
    [
        ({}, Measured()),
        ({"num_samples": 5.0}, Measured({}, 5.0)),
        ({"loss": 0.5}, Measured({"loss": 0.5})),
        ({"loss": 0.5, "num_samples": 5.0, "f1": 1.0}, Measured({"loss": 0.5, "f1": 1.0}, 5.0)),
        ({"num_samples": 0.0, "loss": 0.5}, Measured({"loss": 0.5}, 0.0)),
    ],
)
def test_the_number_of_samples_is_taken_out_of_the_metrics_and_put_back(
    recorded: dict[str, float], measured: Measured
) -> None:
    assert Measured.of(recorded) == measured
    assert measured.recorded() == recorded


def test_what_was_recorded_stays_as_it_is() -> None:
    recorded = {"num_samples": 5.0, "loss": 0.5}
    Measured.of(recorded)
    assert recorded == {"num_samples": 5.0, "loss": 0.5}
