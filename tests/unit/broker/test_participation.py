"""Who takes part: golden trace H of the hash, and what it is like over many rounds and workers."""

import math
from statistics import fmean, pstdev

import pytest
from pydantic import ValidationError

from broker.wire.codec import decode, encode
from broker.wire.headers.participation import PLACES, Draw, place_of, threshold_of_count, threshold_of_share
from broker.wire.messages import ModelHead
from broker.wire.specs import TensorSpec

pytestmark = pytest.mark.timeout(30)

SPECS = (TensorSpec("w", "float32", (1,)),)


def place(worker: str, round_number: int, **changes: int) -> float:
    return place_of(worker, **{"seed": 0, "round_number": round_number} | changes) / PLACES


@pytest.mark.parametrize(
    ("worker", "places"),
    [
        ("hospital-a", [0.698962283953, 0.362663612067, 0.172391777686]),
        ("hospital-b", [0.332106481719, 0.271071988243, 0.775992291478]),
    ],
)
def test_places_are_those_of_golden_trace_h(worker: str, places: list[float]) -> None:
    assert [place(worker, number) for number in (1, 2, 3)] == pytest.approx(places, abs=1e-12)


def test_a_count_chooses_those_of_golden_trace_h() -> None:
    names = [f"worker-{index}" for index in range(20)]
    threshold = threshold_of_count((place_of(name, seed=0, round_number=1) for name in names), 5)
    draw = Draw(number=1, threshold=threshold)
    chosen = [index for index, name in enumerate(names) if draw.chooses(name, seed=0, round_number=1)]
    assert chosen == [1, 2, 6, 16, 17]


def test_a_share_of_a_thousand_workers_over_200_rounds_is_that_of_golden_trace_h() -> None:
    draw = Draw(number=1, threshold=threshold_of_share(0.1))
    names = [f"worker-{index}" for index in range(1000)]
    by_round = [[draw.chooses(name, seed=0, round_number=number) for name in names] for number in range(1, 201)]
    sizes = [sum(chosen) for chosen in by_round]
    assert (fmean(sizes), pstdev(sizes)) == pytest.approx((99.05, 9.44), abs=0.03)
    assert (min(sizes), max(sizes)) == (70, 124)
    by_worker = [sum(chosen) for chosen in zip(*by_round, strict=True)]
    expected = fmean(by_worker)
    chi2 = sum((number - expected) ** 2 for number in by_worker) / (expected * (1 - expected / 200)) / 999
    assert chi2 == pytest.approx(1, abs=3 * math.sqrt(2 / 999))


def test_another_seed_round_or_draw_is_another_place() -> None:
    places = {
        place("a", 1),
        place("a", 2),
        place("a", 1, seed=1),
        place("a", 1, draw=2),
        place("a", 1, draw=3),
        place("b", 1),
    }
    assert len(places) == 6


def test_a_count_chooses_all_where_there_are_fewer_and_nobody_where_there_is_nobody() -> None:
    assert threshold_of_count([5, 3], 10) == 6
    assert threshold_of_count([], 10) == 0
    assert threshold_of_count([PLACES - 1], 1) == threshold_of_share(1.0) == PLACES - 1


def test_nobody_is_chosen_before_the_first_draw() -> None:
    assert not Draw(number=0, threshold=PLACES - 1).chooses("a", seed=0, round_number=1)


def test_a_head_has_the_draw_and_without_one_the_bytes_of_before() -> None:
    fields = {"tensors": SPECS, "sha256": "0" * 64, "run": "r", "run_id": "r.1", "epoch": 1, "round": 1}
    head = ModelHead.model_validate(fields | {"num_rounds": 2, "seed": 0})
    assert b"draw" not in encode(head)
    drawn = head.model_copy(update={"draw": Draw(number=2, threshold=PLACES - 1)})
    assert decode(encode(drawn), ModelHead)[0] == drawn
    assert drawn.position > head.position
    assert head.chooses("anybody")
    with pytest.raises(ValidationError):
        Draw(number=1, threshold=PLACES)
