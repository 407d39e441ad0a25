"""Thousands of small tensors are handled in batches, to the bits of one after the other."""

import cProfile
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from broker.modules.model_tensors import ModelTensors
from broker.states.batches import alike, joined
from broker.states.deltas import delta_of
from broker.states.tensors import chunks, digest_of, first_not_finite, specs_of, state_from
from broker.wire.specs import delta_specs
from console import TaskError
from learning import evaluating, forget_gradients

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
SHAPES = ((4,), (), (2, 2), (0, 3), (1, 3, 1), (300, 300))


def many(seed: int = 0) -> dict[str, Tensor]:
    """Some of each dtype and shape, small and large, contiguous and not."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for index in range(900):
        shape, dtype = SHAPES[index % (5 if index % 50 else 6)], DTYPES[index // 12 % len(DTYPES)]
        values = torch.randn(shape, generator=random).mul(9).to(dtype)
        state[f"t{index:04}"] = values.t() if values.dim() == 2 and index % 3 == 0 else values
    return state


def bytes_of(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def test_the_payload_is_that_of_one_tensor_after_the_other() -> None:
    state = many()
    specs = specs_of(state)
    pieces = [bytes(piece) for piece in chunks(state, specs)]
    assert b"".join(pieces) == b"".join(bytes_of(state[spec.name]) for spec in specs)
    assert len(pieces) < len(specs) / 8


def test_what_is_read_back_is_what_was_there() -> None:
    state = many()
    specs = specs_of(state)
    back = state_from(bytearray(b"".join(chunks(state, specs))), specs)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert bytes_of(back[name]) == bytes_of(tensor)


def test_what_is_read_can_be_sent_again_before_and_after_its_tensors_were_looked_at() -> None:
    state = many()
    specs = specs_of(state)
    payload = b"".join(chunks(state, specs))
    back = state_from(bytearray(payload), specs)
    assert b"".join(chunks(back, specs)) == payload
    assert digest_of({name: tensor for name, tensor in back.items() if "7" in name}) == digest_of(
        {name: tensor for name, tensor in state.items() if "7" in name}
    )
    assert [id(tensor) for tensor in back.values()] == [id(back[name]) for name in specs.names]
    back["t0001"].fill_(2)
    assert b"".join(chunks(back, specs)) == b"".join(chunks({**state, "t0001": back["t0001"]}, specs))


def test_tensors_of_one_shape_have_it() -> None:
    for shape in ((2, 3), (6,), (), (0, 3)):
        state = {f"{index}": torch.rand(shape) for index in range(5)}
        back = state_from(bytearray(b"".join(chunks(state, specs_of(state)))), specs_of(state))
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
        assert {tensor.shape for tensor in back.values()} == {shape}


@pytest.mark.parametrize("broken", [[], ["t0700"], ["t0700", "t0012"]])
def test_a_difference_is_that_of_each_tensor(broken: list[str]) -> None:
    old, new = many(1), many(2)
    for name in broken:
        new[name] = torch.full_like(new[name].to(torch.float32), float("nan")).to(new[name].dtype)
    trained = {name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in new.items()}
    delta = delta_of(trained, old, delta_specs(specs_of(old)))
    for spec in delta_specs(specs_of(old)):
        one, other = new[spec.name], old[spec.name]
        alone = one - other if one.is_floating_point() else one.to(torch.int64) - other.to(torch.int64)
        assert bytes_of(delta[spec.name]) == bytes_of(alone), spec
        assert delta[spec.name].dtype == alone.dtype
        assert not delta[spec.name].requires_grad


def test_a_difference_to_what_was_read_is_the_same() -> None:
    old, new = many(1), many(2)
    specs = specs_of(old)
    read = state_from(bytearray(b"".join(chunks(old, specs))), specs)
    wanted, given = delta_of(new, old, delta_specs(specs)), delta_of(new, read, delta_specs(specs))
    assert digest_of(given) == digest_of(wanted)


def test_what_has_not_moved_is_0_also_among_others_that_are_finite() -> None:
    old = {f"t{index}": torch.full((4,), float(index)) for index in range(9)} | {"t4": torch.tensor([-torch.inf, 1.0])}
    new = {name: tensor + 1 for name, tensor in old.items()}
    delta = delta_of(new, old, specs_of(old))
    assert {name: set(tensor.tolist()) for name, tensor in delta.items()} == {
        name: {0.0, 1.0} if name == "t4" else {1.0} for name in old
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_tensor_that_is_not_finite_is_named(value: float) -> None:
    state = {name: tensor for name, tensor in many().items() if tensor.numel()}
    assert first_not_finite(state) is None
    floats = [name for name, tensor in state.items() if tensor.is_floating_point()]
    for name in (floats[300], floats[70]):
        state[name] = state[name].clone(memory_format=torch.contiguous_format)
        state[name].reshape(-1)[-1] = value
    assert first_not_finite(state) == floats[70]
    specs = specs_of(state)
    read = state_from(bytearray(b"".join(chunks(state, specs))), specs)
    assert first_not_finite(read) == next(name for name in specs.names if name in (floats[300], floats[70]))


def test_batches_keep_the_order_and_mix_no_dtypes() -> None:
    state = many()
    specs = specs_of(state)
    batches = specs.batches
    assert tuple(spec for batch in batches for spec in batch) == specs
    assert all(len({spec.dtype for spec in batch}) == 1 for batch in batches)
    assert all(sum(spec.num_bytes for spec in batch) <= 2**18 for batch in batches if len(batch) > 1)
    together = [tensor for batch in alike(state.values()) for tensor in batch]
    assert [id(tensor) for tensor in together] == [id(tensor) for tensor in state.values()]
    parameter = nn.Parameter(torch.ones(3))
    assert not joined([parameter, parameter]).requires_grad


# -- into a module ----------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, num: int = 40) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(num))


class Counting(Net):
    """Overrides what takes a state dict."""

    loaded = 0

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.loaded += 1
        return super().load_state_dict(*args, **kwargs)


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.loaded = 0
        self.layers[3].register_load_state_dict_post_hook(self._count)

    def _count(self, module: nn.Module, keys: Any) -> None:
        self.loaded += 1


@pytest.mark.parametrize("kind", [Net, Counting, Hooked])
def test_a_module_takes_what_its_own_load_state_dict_would(kind: type[Net]) -> None:
    model, other = kind(), kind()
    tensors = ModelTensors.of(model)
    values = {name: tensor.clone() + 1 for name, tensor in other.state_dict().items()}
    memory = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    tensors.put_into(model, values)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, values[name]), name
        assert tensor.data_ptr() == memory[name]
    assert getattr(model, "loaded", 1) == 1


def test_some_of_the_values_leave_the_others_alone() -> None:
    model = Net()
    tensors = ModelTensors.of(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors.put_into(model, {"layers.1.0.weight": torch.zeros(2, 2)})
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["layers.1.0.weight"]


def test_a_value_of_another_shape_is_not_spread_over_a_tensor() -> None:
    model = Net()
    with pytest.raises(TaskError, match="does not take its own state dict"):
        ModelTensors.of(model).put_into(model, {"layers.1.0.weight": torch.zeros(2)})


@pytest.mark.timeout(60)
def test_the_calls_of_a_round_are_not_those_of_one_tensor_after_the_other() -> None:
    """Calls of functions in Python, of which one costs what dozens of elements cost."""

    def calls_with(num_tensors: int) -> int:
        model = nn.ParameterList(nn.Parameter(torch.randn(2, 2)) for _ in range(num_tensors))
        tensors = ModelTensors.of(model)
        payload = b"".join(chunks(tensors.taken_from(model), tensors.specs))

        def one_round() -> None:
            received = state_from(bytearray(payload), tensors.specs)
            assert first_not_finite(received) is None
            tensors.put_into(model, received)
            with evaluating(model):
                pass
            forget_gradients(model)
            delta = delta_of(tensors.within(model), received, delta_specs(tensors.specs))
            assert first_not_finite(delta) is None
            for _ in chunks(delta, delta_specs(tensors.specs)):
                pass

        one_round()
        profile = cProfile.Profile(builtins=False)
        profile.runcall(one_round)
        return sum(entry.callcount for entry in profile.getstats())

    assert calls_with(2000) - calls_with(1000) < 12 * 1000
