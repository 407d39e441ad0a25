"""The next model's values, whichever tensors are stepped together. Those called ``a`` are buffers."""

from itertools import groupby
from operator import attrgetter
from pathlib import Path

import pytest
import torch

from aggregator.algorithms.fedavg import FedAvg
from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.next_model import Stepping, next_model
from aggregator.state.checkpoint import StateDirectory
from aggregator.weighing.weighting import Divisors
from broker.states.tensors import DTYPES, State, chunks, specs_of
from broker.wire.specs import Specs, delta_specs

SHAPES = {"a": (3, 5), "b": (), "c": (0, 2), "d": (20_000,), "e": (13_000,), "f": (700_000,), "g": (1,), "h": (2, 2)}
KINDS = ("float32", "float64", "bfloat16", "int64", "int8", "bool")


def model() -> State:
    """A tensor of every shape and dtype, with values that are exact in all of them."""
    random = torch.Generator().manual_seed(5)
    return {
        f"{name}.{kind}": torch.randint(0, 2, shape, generator=random).to(DTYPES[kind])
        for name, shape in SHAPES.items()
        for kind in KINDS
    }


def stepped(old: State, directory: StateDirectory, exact_sum: ExactSum, *, total: int, server_lr: float) -> State:
    directory.write_model(0, old).install()
    new: State = {}
    floats = {name for name, tensor in old.items() if tensor.is_floating_point() and not name.startswith("a.")}
    divisors = Divisors(total, total) if total else None
    stepping = Stepping(FedAvg(), server_lr, stepped=floats, divisors=divisors, scalars={})
    pieces = next_model(directory.model(0), specs_of(old), exact_sum, stepping)
    for span, of_span in groupby(pieces, key=attrgetter("span")):
        together = torch.cat([piece.values for piece in of_span])
        parts = torch.split(together, [spec.num_elements for spec in span])
        new |= {spec.name: part.reshape(spec.shape) for spec, part in zip(span, parts, strict=True)}
    assert list(new) == [spec.name for spec in specs_of(old)]
    return new


@pytest.mark.parametrize("at_home", [(), ("b",), ("a", "d", "g"), tuple(SHAPES)])
def test_each_tensor_that_travelled_is_stepped_by_its_own_mean(tmp_path: Path, at_home: tuple[str, ...]) -> None:
    old = model()
    travels = {name: tensor for name, tensor in old.items() if not name.startswith(at_home or "-")}
    specs: Specs = delta_specs(specs_of(travels))
    delta = {spec.name: torch.full(spec.shape, 4 + n, dtype=DTYPES[spec.dtype]) for n, spec in enumerate(specs)}
    exact_sum = ExactSum(specs)
    for weight in (1.0, 2.0):
        offset = 0
        for piece in chunks(delta, specs):
            exact_sum.add(offset, piece, weight)
            offset += len(piece)
        exact_sum.end_update()

    new = stepped(old, StateDirectory(tmp_path), exact_sum, total=3, server_lr=0.5)

    for name, tensor in old.items():
        factor = 0.5 if tensor.is_floating_point() and not name.startswith("a.") else 1.0
        step = factor * delta[name].double() if name in delta else torch.zeros(tensor.shape)
        expected = tensor.double() + (step if tensor.is_floating_point() else step.round())
        assert new[name].dtype == tensor.dtype
        assert torch.equal(new[name], expected.to(tensor.dtype)), name


def test_an_abandoned_round_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    old = model()
    exact_sum = ExactSum(delta_specs(specs_of(old)))
    new = stepped(old, StateDirectory(tmp_path), exact_sum, total=0, server_lr=1.0)
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
