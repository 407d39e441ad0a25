"""Differences of states that hold infinity and NaN, and what of them can be averaged."""

import pytest
import torch

from broker.states.deltas import delta_of, has_diverged
from broker.states.tensors import specs_of
from broker.wire.specs import delta_specs

INFINITY, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("old", "new", "delta"),
    [
        (1.0, 3.0, 2.0),
        (INFINITY, INFINITY, 0.0),
        (-INFINITY, -INFINITY, 0.0),
        (NAN, NAN, 0.0),
        (INFINITY, 1.0, -INFINITY),
        (1.0, INFINITY, INFINITY),
        (INFINITY, -INFINITY, -INFINITY),
        (NAN, 1.0, NAN),
        (1.0, NAN, NAN),
    ],
)
def test_an_element_that_has_not_moved_has_a_difference_of_zero(
    dtype: torch.dtype, old: float, new: float, delta: float
) -> None:
    before, after = ({"w": torch.tensor([value, 1.0], dtype=dtype)} for value in (old, new))
    given = delta_of(after, before, delta_specs(specs_of(before)))["w"]
    assert given.dtype == dtype
    assert torch.equal(given, torch.tensor([delta, 0.0], dtype=dtype)) or given.isnan().tolist() == [True, False]
    assert given.isnan().tolist() == [delta != delta, False]


def test_only_what_was_finite_can_diverge() -> None:
    one, mask = torch.ones(2), torch.tensor([-INFINITY, 1.0])
    assert not has_diverged(one, one)
    assert not has_diverged(mask, mask)
    assert not has_diverged(one, mask)
    assert has_diverged(mask, one)
    assert has_diverged(torch.tensor([1.0, NAN]), mask)
