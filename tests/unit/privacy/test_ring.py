"""The ring: what elements become, what is cut off, and that sums come out."""

import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy import RING64_STEP, Ring, step_of

RING64 = Ring(64, RING64_STEP, 2.0**30)
NUM_UPDATES = 10
RING32 = Ring(32, step_of(32, NUM_UPDATES * 1.5), 1.5)


def array(values: list[float], dtype: Any = np.float64) -> NDArray[Any]:
    return np.array(values, dtype)


def test_elements_are_cut_towards_zero() -> None:
    ring = Ring(64, 0.25, 1000.0)
    given_ = array([0.0, 0.24, -0.24, 0.25, -0.25, 0.49, -0.49, 10.1, -10.1])
    assert ring.integers(given_, weight=1).tolist() == [0, 0, 0, 1, -1, 1, -1, 40, -40]
    assert ring.integers(given_, weight=2).tolist() == [0, 1, -1, 2, -2, 3, -3, 80, -80]


def test_what_is_beyond_the_most_is_cut_off() -> None:
    ring = Ring(32, 0.25, 3.1)
    assert ring.integers(array([3.0, 3.1, 3.3, -1e30, 1e300]), weight=1).tolist() == [12, 12, 12, -12, 12]
    assert ring.reaches(3.1, weight=1)
    assert not ring.reaches(3.2, weight=1)
    assert not ring.reaches(1.6, weight=2)


@given(st.lists(st.floats(-100, 100, width=32), max_size=20), st.integers(1, 1000))
def test_a_ring_of_64_bits_keeps_single_precision_to_its_step(values: list[float], weight: int) -> None:
    given_ = array(values, np.float32)
    integers = RING64.integers(given_, weight=weight)
    assert integers.dtype == np.int64
    for value, integer in zip(given_.tolist(), integers.tolist(), strict=True):
        assert integer == math.trunc(value * weight * 2**32)


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20), st.sampled_from([RING64, RING32]))
def test_what_is_encoded_is_no_longer_than_what_was_given(values: list[float], ring: Ring) -> None:
    given_ = array(values, np.float32)
    back = ring.values(ring.integers(given_, weight=1), weight=1)
    assert np.all(np.abs(back) <= np.abs(given_))
    assert np.all((back == 0) | (np.sign(back) == np.sign(given_)))


def test_as_many_updates_as_it_was_made_for_have_room_at_their_largest() -> None:
    largest = RING32.integers(array([5.0, -5.0], np.float32), weight=1)
    total = np.zeros(2, np.int32)
    for _ in range(NUM_UPDATES):
        total += largest
    assert total.tolist() == [NUM_UPDATES * int(largest[0]), -NUM_UPDATES * int(largest[0])]
    assert RING32.values(total, weight=NUM_UPDATES) == pytest.approx([1.5, -1.5], abs=RING32.step)


@pytest.mark.parametrize(("bits", "most"), [(64, 1.0), (32, 1.0), (32, 1.5), (32, 2.0**20), (32, 1e-9)])
def test_a_step_is_the_smallest_that_leaves_room(bits: Literal[64, 32], most: float) -> None:
    step = step_of(bits, most)
    Ring(bits, step, most)
    if bits == 32:
        with pytest.raises(ValueError, match="do not reach"):
            Ring(bits, step / 2, most)


@pytest.mark.parametrize("step", [0.0, -0.5, 0.3, math.inf, math.nan])
def test_a_step_that_is_no_power_of_two_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Ring(64, step, 1.0)


def test_elements_are_worked_on_in_batches_that_leave_no_seam() -> None:
    values = np.random.default_rng(0).standard_normal(200_001).astype(np.float32)
    assert RING64.integers(values, weight=7).tolist() == np.trunc(values.astype(np.float64) * 7 * 2**32).tolist()


@given(st.lists(st.floats(-100, 100, width=32), max_size=20), st.integers(1, 1000), st.sampled_from([RING64, RING32]))
def test_integers_and_what_they_lack_are_what_was_given(values: list[float], weight: int, ring: Ring) -> None:
    given_ = array(values)
    integers, left = np.empty(len(values), ring.dtype), np.empty(len(values))
    ring.split(given_, weight=weight, out=integers, left=left)
    assert integers.tolist() == ring.integers(given_, weight=weight).tolist()
    assert left + ring.values(integers, weight=weight) == pytest.approx(given_, rel=1e-15, abs=1e-18)


def test_a_long_array_is_split_as_its_elements_are_one_by_one() -> None:
    values = np.random.default_rng(1).standard_normal(40_001).astype(np.float32)
    integers, left = np.empty(len(values), np.int32), np.empty_like(values)
    RING32.split(values, weight=3, out=integers, left=left)
    wide = values.astype(np.float64)
    cut = np.clip(np.trunc(wide * (3 / RING32.step)), -(1.5 // RING32.step), 1.5 // RING32.step)
    assert integers.tolist() == cut.tolist()
    assert left.tolist() == (wide - cut * RING32.step / 3).astype(np.float32).tolist()
