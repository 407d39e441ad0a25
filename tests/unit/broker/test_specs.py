"""Which tensors a state has: order, sizes, differences."""

import pytest
import torch

from broker.states.tensors import DTYPES, specs_of, state_from
from broker.wire.specs import ITEM_BYTES, TensorSpec, canonical, delta_specs, difference, num_bytes_of
from console.errors import UnfitMessage


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_is_what_it_is_to_pytorch(dtype: str) -> None:
    spec = TensorSpec("w", dtype, (2, 3))  # type: ignore[arg-type]
    assert ITEM_BYTES.keys() == DTYPES.keys()
    assert spec.item_bytes == DTYPES[dtype].itemsize
    assert spec.num_bytes == torch.zeros(2, 3, dtype=DTYPES[dtype]).nbytes
    assert spec.is_float == DTYPES[dtype].is_floating_point


def test_sizes_of_impossible_shapes_are_plain_numbers() -> None:
    spec = TensorSpec("w", "float64", (2**40 - 1,) * 16)
    assert num_bytes_of((spec,)) == 8 * (2**40 - 1) ** 16
    with pytest.raises(UnfitMessage):
        state_from(bytearray(8), (spec,))


def test_canonical_order_is_item_size_then_name_by_code_point() -> None:
    specs = [TensorSpec(name, dtype, ()) for name, dtype in [("b", "int8"), ("a", "int64"), ("Z", "float64")]]  # type: ignore[arg-type]
    assert [spec.name for spec in canonical(specs)] == ["Z", "a", "b"]


def test_the_difference_says_what_is_wrong() -> None:
    wanted = (TensorSpec("a", "float32", (2, 3)), TensorSpec("b", "int64", ()))
    assert difference(wanted, wanted) is None
    assert difference(wanted, wanted[:1]) == "has no tensor 'b'"
    assert difference(wanted[:1], wanted) == "has a tensor 'b' that the model does not have"
    assert difference(wanted[:1], (TensorSpec("a", "float64", (2, 3)),)) == (
        "has tensor 'a' of dtype float64, not float32"
    )
    assert difference(wanted[:1], (TensorSpec("a", "float32", (3, 2)),)) == (
        "has tensor 'a' of shape [3, 2], not [2, 3]"
    )


def test_a_delta_has_no_boolean_tensors_and_wide_integers() -> None:
    specs = specs_of({"f": torch.ones(1), "n": torch.ones(2, dtype=torch.uint8), "mask": torch.ones(1) > 0})
    assert delta_specs(specs) == (TensorSpec("n", "int64", (2,)), TensorSpec("f", "float32", (1,)))
