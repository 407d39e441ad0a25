"""Which tensors travel, and which stay at home."""

import pytest
from torch import nn

from broker.modules.model_tensors import ModelTensors
from broker.modules.selection import ALL


def model() -> nn.Module:
    net = nn.Sequential()
    net.add_module("body", nn.Linear(2, 3))
    net.add_module("norm", nn.BatchNorm1d(3))
    net.add_module("head", nn.Linear(3, 1))
    for parameter in net.get_submodule("body").parameters():
        parameter.requires_grad_(False)
    return net


def shared(module: nn.Module, patterns: tuple[str, ...]) -> set[str]:
    return {spec.name for spec in ModelTensors.of(module).shared(patterns)}


BODY, HEAD = {"body.weight", "body.bias"}, {"head.weight", "head.bias"}
NORM = {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (ALL, BODY | NORM | HEAD),
        (("body.*",), BODY),
        (("body.*", "head.*"), BODY | HEAD),
        (("!head.*",), BODY | NORM),
        (("*.weight", "!norm.*"), {"body.weight", "head.weight"}),
        (("!head.*", "!norm.*"), BODY),
        (("trainable",), {"norm.weight", "norm.bias"} | HEAD),
        (("trainable", "!head.*"), {"norm.weight", "norm.bias"}),
        (("!trainable",), BODY | {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}),
        (("head.?eight",), {"head.weight"}),
    ],
)
def test_patterns_name_tensors(patterns: tuple[str, ...], names: set[str]) -> None:
    assert shared(model(), patterns) == names


@pytest.mark.parametrize("patterns", [("tail.*",), ("body.*", "tail.*"), ("*", "!tail.*"), ("BODY.*",)])
def test_a_pattern_that_matches_nothing_is_named(patterns: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"'!?(tail|BODY)\.\*' matches no tensor of the model; it has body.weight, "):
        shared(model(), patterns)


def test_nothing_trained_is_nothing_that_trainable_matches() -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="'trainable' matches no tensor"):
        shared(frozen, ("trainable",))


def test_a_rest_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'\*,!\*' leaves no tensor"):
        shared(model(), ("*", "!*"))
