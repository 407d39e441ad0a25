"""One norm over all tensors, and what brings it down to the clip."""

import numpy as np
import pytest

from privacy import norm_of, scale_to


def test_the_norm_is_that_of_all_tensors_together_in_any_order() -> None:
    tensors = [np.full((3, 4), 2.0, np.float32), np.array(-1.0), np.zeros(0), np.arange(200_000) / 1e3]
    plain = float(np.sqrt(sum(np.sum(tensor.astype(np.float64) ** 2) for tensor in tensors)))
    assert norm_of(tensors) == pytest.approx(plain, rel=4e-12)
    assert norm_of(tensors) > plain
    assert norm_of(tensors) == norm_of(tensors[::-1])


def test_neither_very_large_nor_very_small_elements_are_lost() -> None:
    assert norm_of([np.array([3e200, -4e200])]) == pytest.approx(5e200, rel=1e-11)
    assert norm_of([np.array([3e-200, 4e-200])]) == pytest.approx(5e-200, rel=1e-11)
    assert norm_of([np.array([5e-324])]) == 5e-324


def test_an_update_of_nothing_has_no_length_and_is_left_as_it_is() -> None:
    assert norm_of([]) == norm_of([np.zeros(5)]) == 0
    assert scale_to(1.0, 0.0) == 1
    assert scale_to(1.0, 1.0) == 1
    assert scale_to(1.0, 4.0) == 0.25


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_has_no_length(wrong: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        norm_of([np.ones(5), np.array([1.0, wrong])])


@pytest.mark.parametrize("clip", [0.0, -1.0, np.inf, np.nan])
def test_a_clip_that_makes_no_sense_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match="the clip must be above 0"):
        scale_to(clip, 2.0)
