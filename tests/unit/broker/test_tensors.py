"""Named tensors as bytes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from broker.states.tensors import chunks, digest_of, first_not_finite, specs_of, state_from
from broker.wire.specs import TensorSpec
from console.errors import UnfitMessage


def payload_of(state: dict[str, Tensor]) -> bytes:
    return b"".join(chunks(state, specs_of(state)))


def test_the_digest_of_a_fixed_state_is_a_known_answer() -> None:
    """Python, numpy, torch and the machine may change; this may not. Other languages can check theirs by it."""
    state = {
        "layer.weight": torch.tensor([[1.0, -2.0], [0.5, 0.25]]),
        "layer.bias": torch.tensor([0.1, 0.2], dtype=torch.float64),
        "half": torch.tensor([1.5], dtype=torch.float16),
        "brain": torch.tensor([1.5, -3.0], dtype=torch.bfloat16),
        "steps": torch.tensor(42),
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
        "ä": torch.tensor([-1], dtype=torch.int8),
    }
    assert [spec.name for spec in specs_of(state)] == [
        "layer.bias",
        "steps",
        "empty",
        "layer.weight",
        "brain",
        "half",
        "mask",
        "ä",
    ]
    assert payload_of(state).hex() == (
        "9a9999999999b93f9a9999999999c93f"  # layer.bias
        "2a00000000000000"  # steps
        "0000803f000000c00000003f0000803e"  # layer.weight; empty has no bytes
        "c03f40c0"  # brain
        "003e"  # half
        "010001"  # mask
        "ff"  # ä
    )
    assert digest_of(state) == "81d9715547487bf778feda8befa812a1d64a8d1ad6d077e473f8a9e1c62dcac5"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(5, 3)[:1, 1],
        torch.zeros(5, 3)[:0, 1],
        torch.from_numpy(np.zeros(0)),
        torch.arange(6.0).reshape(2, 3).t(),
        torch.ones(()).expand(3),
        torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.tensor(1.5),
    ],
    ids=["one of a column", "none of a column", "empty from numpy", "transposed", "expanded", "channels last", "0-d"],
)
def test_the_bytes_of_a_tensor_do_not_depend_on_its_strides(tensor: Tensor) -> None:
    plain = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    assert payload_of({"w": tensor}) == payload_of({"w": plain}) == plain.numpy().tobytes()
    assert digest_of({"w": tensor}) == digest_of({"w": plain})


def test_tensors_that_require_gradients_are_read_all_the_same() -> None:
    assert payload_of({"w": torch.ones(2, requires_grad=True)}) == payload_of({"w": torch.ones(2)})


def test_a_payload_is_viewed_and_not_copied() -> None:
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.int16)}
    payload = bytearray(payload_of(state))
    received = state_from(payload, specs_of(state))
    payload[:4] = np.float32(7).tobytes()
    assert received["a"].tolist() == [7.0, 2.0]


def test_a_payload_of_another_size_is_unfit() -> None:
    specs = (TensorSpec("w", "float32", (2,)),)
    for size in (0, 7, 9):
        with pytest.raises(UnfitMessage, match=f"{size} bytes; its tensors need 8"):
            state_from(bytearray(size), specs)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (2**39, 0), (0, 2**39, 2**39, 2**39)])
def test_a_tensor_without_elements_is_made(shape: tuple[int, ...]) -> None:
    assert state_from(bytearray(), (TensorSpec("w", "float32", shape),))["w"].shape == shape


def test_a_shape_whose_product_overflows_before_it_comes_to_nothing_is_unfit() -> None:
    with pytest.raises(UnfitMessage, match="tensor 'w' has an impossible shape"):
        state_from(bytearray(), (TensorSpec("w", "float32", (2**39, 2**39, 0)),))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.uint16])
def test_a_dtype_that_cannot_travel_is_named(dtype: torch.dtype) -> None:
    with pytest.raises(UnfitMessage, match=f"tensor 'w' is of dtype {dtype}"):
        specs_of({"w": torch.zeros(1).to(dtype)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_first_tensor_with_nan_or_infinity_is_named(dtype: torch.dtype) -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        state = {"n": torch.tensor([1]), "good": torch.ones(2, dtype=dtype), "bad": torch.tensor([1, bad], dtype=dtype)}
        assert first_not_finite(state) == "bad"
    assert first_not_finite({"n": torch.tensor([1]), "empty": torch.zeros(0)}) is None
