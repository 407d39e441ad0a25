"""What the state dict of a model holds, and what of it can travel."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from broker.modules.model_tensors import ModelTensors
from console.errors import TaskError


class Tied(nn.Module):
    """A language model as small as can be: what it reads with is what it writes with."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 3)
        self.lm_head = nn.Linear(3, 5, bias=False)
        self.lm_head.weight = self.wte.weight


class Buffers(nn.Module):
    """A parameter and some buffers."""

    def __init__(self, **buffers: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)


def names(model: nn.Module, *patterns: str) -> set[str]:
    return {spec.name for spec in ModelTensors.of(model).shared(patterns or ("*",))}


# -- tied tensors -----------------------------------------------------------------------------------------------


def test_a_tied_tensor_travels_once_by_its_first_name() -> None:
    tensors = ModelTensors.of(Tied())
    assert names(Tied()) == {"wte.weight", "body.weight", "body.bias"}
    assert tensors.others == {"lm_head.weight": "wte.weight"}
    assert tensors.trained == {"wte.weight", "body.weight", "body.bias", "lm_head.weight"}


@pytest.mark.parametrize("patterns", [("!lm_head.*",), ("wte.*", "body.*"), ("lm_head.*",), ("*", "!wte.*")])
def test_a_tied_tensor_that_is_shared_by_one_of_its_names_is_refused_with_both(patterns: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"'wte.weight' and 'lm_head.weight' are one tensor \(tied weights\)"):
        names(Tied(), *patterns)


@pytest.mark.parametrize("patterns", [("body.*",), ("!wte.*", "!lm_head.*"), ("body.*", "!*.weight", "body.weight")])
def test_a_tied_tensor_stays_home_by_both_names(patterns: tuple[str, ...]) -> None:
    assert "wte.weight" not in names(Tied(), *patterns)


def test_a_tied_tensor_is_put_in_under_all_its_names() -> None:
    model = Tied()
    tensors = ModelTensors.of(model)
    state = {name: torch.full_like(tensor, 7) for name, tensor in tensors.taken_from(model).items()}
    apart = Tied()
    apart.lm_head.weight = nn.Parameter(torch.full((5, 3), 7.0))  # as buffers are after a move to a device
    tensors.put_into(model, state)
    assert torch.equal(model.lm_head.weight, torch.full((5, 3), 7.0))
    assert tensors.taken_from(model).keys() == {"wte.weight", "body.weight", "body.bias"}
    with torch.no_grad():
        apart.wte.weight.fill_(7)
    tensors.put_into(apart, {name: tensor + 1 for name, tensor in state.items()})
    assert torch.equal(apart.lm_head.weight, torch.full((5, 3), 8.0))


def test_a_tied_tensor_that_training_takes_apart_is_the_task_s_error() -> None:
    model = Tied()
    tensors = ModelTensors.of(model)
    model.lm_head.weight = nn.Parameter(model.wte.weight + 1)
    with pytest.raises(TaskError, match=r"'lm_head.weight' and 'wte.weight' were one tensor and differ"):
        tensors.taken_from(model)


def test_equal_tensors_in_memory_of_their_own_are_two() -> None:
    assert names(Buffers(one=torch.ones(2), two=torch.ones(2))) == {"w", "one", "two"}


def test_a_module_that_is_used_twice_travels_once() -> None:
    layer = nn.BatchNorm1d(2)
    tensors = ModelTensors.of(nn.Sequential(layer, nn.ReLU(), layer))
    assert {spec.name for spec in tensors.specs} == {
        f"0.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def halves() -> nn.Module:
    both = torch.arange(6.0)
    return Buffers(left=both[:4], right=both[2:])


@pytest.mark.parametrize(
    "make",
    [halves, lambda: Buffers(a=(t := torch.ones(2, 3)), b=t.T), lambda: Buffers(a=(t := torch.ones(4)), b=t[:2])],
)
def test_tensors_that_overlap_in_part_are_refused_with_both_names(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"'(left|a)' and '(right|b)' lie in the same memory in part"):
        names(make())
    assert names(make(), "w") == {"w"}


def test_tensors_side_by_side_in_one_memory_travel_each_by_itself() -> None:
    flat, grid = torch.arange(6.0), torch.zeros(4, 4)
    assert names(Buffers(left=flat[:3], right=flat[3:], even=grid[:, ::2], odd=grid[:, 1::2])) == {
        *("w", "left", "right", "even", "odd")
    }


def test_empty_tensors_are_tied_to_nothing() -> None:
    empty = torch.zeros(0)
    assert names(Buffers(one=empty, two=empty)) == {"w", "one", "two"}


# -- entries that cannot travel ---------------------------------------------------------------------------------


class Extra(nn.Linear):
    """Has a word to say besides its tensors."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.word = "mine"

    def get_extra_state(self) -> Any:
        return {"word": self.word}

    def set_extra_state(self, state: Any) -> None:
        self.word = state["word"]


def test_extra_state_stays_on_the_module() -> None:
    model = Extra()
    tensors = ModelTensors.of(model)
    model.word = "learned here"
    tensors.put_into(model, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    assert (model.word, model.weight.tolist()) == ("learned here", [[1, 1]])
    assert tensors.taken_from(model).keys() == {"weight", "bias"}
    assert tensors.what_stays() == "'_extra_state' (is not a tensor but of type dict)"


class Counted(nn.Linear):
    """Its extra state is a tensor, made anew whenever it is asked for."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.count = 3

    def get_extra_state(self) -> Any:
        return torch.tensor(self.count)

    def set_extra_state(self, state: Any) -> None:
        self.count = int(state)


def test_extra_state_that_is_a_tensor_travels_and_goes_back_to_its_module() -> None:
    model = nn.Sequential(Counted(), nn.Linear(1, 1))
    tensors = ModelTensors.of(model)
    state = {name: torch.full_like(tensor, 7) for name, tensor in tensors.taken_from(model).items()}
    tensors.put_into(model, state)
    assert (model[0].count, model[0].weight.tolist(), model[1].bias.tolist()) == (7, [[7, 7]], [7])


@pytest.mark.filterwarnings("ignore:.*uantize")
def test_dynamically_quantised_layers_stay_and_the_others_travel() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(1, 1, 1))
    model[0] = torch.ao.nn.quantized.dynamic.Linear(2, 2)
    tensors = ModelTensors.of(model)
    state = {name: torch.ones_like(tensor) for name, tensor in tensors.taken_from(model).items()}
    tensors.put_into(model, state)
    assert {"1.weight", "1.bias"} <= state.keys()
    assert not any("packed" in name for name in state)
    assert "'0._packed_params._packed_params' (is not a tensor but of type tuple)" in str(tensors.what_stays())


@pytest.mark.filterwarnings("ignore:.*uantize")
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: torch.ones(2, dtype=torch.complex64), "is of dtype complex64"),
        (lambda: torch.eye(2).to_sparse(), "is sparse (sparse_coo)"),
        (lambda: torch.ones(1).expand(3), "has several elements in one place, as after expand()"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "is of dtype qint8"),
        (lambda: torch.ones(2, device="meta"), "is on the device 'meta'"),
    ],
)
def test_a_buffer_that_cannot_travel_stays_and_is_told(make: Callable[[], Tensor], why: str) -> None:
    model = Buffers(odd=make())
    tensors = ModelTensors.of(model)
    assert names(model) == {"w"}
    assert f"'odd' ({why}" in str(tensors.what_stays())
    tensors.put_into(model, {"w": torch.zeros(2)})
    assert tensors.taken_from(model)["w"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "why"),
    [("__metadata__", "which safetensors files keep"), ("n" * 600, "has a name of 600 characters; at most 512")],
)
def test_a_buffer_with_a_name_that_cannot_travel_stays(name: str, why: str) -> None:
    tensors = ModelTensors.of(Buffers(**{name: torch.ones(1)}))
    assert {spec.name for spec in tensors.shared(("*",))} == {"w"}
    assert why in str(tensors.what_stays())
    assert len(str(tensors.what_stays())) < 200


@pytest.mark.parametrize(
    ("name", "value", "way_out"),
    [
        ("n" * 600, torch.ones(1), f"--shared '!{'n' * 60}*' leaves it at the sites"),
        ("phase", torch.ones(1, dtype=torch.complex64), "--shared '!phase' leaves it at the sites"),
    ],
)
def test_a_trained_parameter_that_cannot_travel_is_refused_with_the_way_out(
    name: str, value: Tensor, way_out: str
) -> None:
    model = Buffers()
    model.register_parameter(name, nn.Parameter(value))
    with pytest.raises(TaskError, match="is trained, but") as refused:
        names(model)
    assert way_out in str(refused.value)
    assert names(model, way_out.split("'")[1]) == {"w"}


def test_a_lazy_module_is_the_task_s_error_and_says_what_to_do() -> None:
    with pytest.raises(TaskError, match=r"'0.weight' has no shape yet, as in a lazy module; run one batch"):
        ModelTensors.of(nn.Sequential(nn.LazyLinear(2)))


# -- state dicts of their own -----------------------------------------------------------------------------------


class Renamed(nn.Module):
    """Overrides both halves, and drops a prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.net.state_dict()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return self.net.load_state_dict(state_dict, strict=strict)


class OneHalf(Renamed):
    load_state_dict = nn.Module.load_state_dict


class Fails(Renamed):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        raise KeyError("net")


def test_a_state_dict_of_its_own_travels_by_its_own_names() -> None:
    model = Renamed()
    tensors = ModelTensors.of(model)
    tensors.put_into(model, {"weight": torch.ones(1, 2), "bias": torch.ones(1)})
    assert model.net.weight.tolist() == [[1, 1]]
    assert tensors.trained == {"weight", "bias"}
    assert tensors.what_stays() is None


def test_half_an_override_is_the_task_s_error() -> None:
    tensors = ModelTensors.of(OneHalf())
    with pytest.raises(TaskError, match=r"has 'weight', which its load_state_dict\(\) does not know"):
        tensors.put_into(OneHalf(), {"weight": torch.ones(1, 2), "bias": torch.ones(1)})


def test_a_state_dict_that_fails_is_the_task_s_error() -> None:
    with pytest.raises(TaskError, match=r"state_dict\(\) failed: KeyError: 'net'"):
        ModelTensors.of(Fails())


def test_a_trained_parameter_that_the_state_dict_leaves_out_is_told() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.adapter = nn.Linear(2, 2), nn.Linear(2, 1)

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return {k: v for k, v in super().state_dict(*args, **kwargs).items() if k.startswith("adapter")}

    model = Half()
    tensors = ModelTensors.of(model)
    assert names(model) == {"adapter.weight", "adapter.bias"}
    assert "'body.weight' (is trained, but not in the state dict)" in str(tensors.what_stays())
    tensors.put_into(model, {"adapter.bias": torch.tensor([3.0])})
    assert model.adapter.bias.tolist() == [3]


# -- models that change -----------------------------------------------------------------------------------------


def fuse(model: nn.Sequential) -> None:
    model.eval()
    torch.ao.quantization.fuse_modules(model, ["0", "1"], inplace=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: model.double(), r"'0.weight' was float32 \[2, 1, 1\] and is float64 \[2, 1, 1\]"),
        (lambda model: model.half(), r"'0.weight' was float32 \[2, 1, 1\] and is float16 \[2, 1, 1\]"),
        (fuse, r"'1.bias' was float32 \[2\] and is gone"),
        (lambda model: model.add_module("extra", nn.Linear(1, 1)), "'extra.bias' is new, and trained"),
        (lambda model: model.register_buffer("cache", torch.ones(1)), ""),
    ],
)
def test_a_task_that_changes_the_tensors_of_its_model_is_told_which_and_how(
    change: Callable[[Any], object], said: str
) -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2))
    tensors = ModelTensors.of(model)
    change(model)
    if not said:
        assert tensors.taken_from(model).keys() == {spec.name for spec in tensors.specs}
        return
    with pytest.raises(TaskError, match=f"the task changed the tensors of its model.*{said}"):
        tensors.taken_from(model)
