"""The next global model from the updates of a round, piece by piece: neither model is ever in memory as a whole.

    mean  = sum_k(weight_k * delta_k) / sum_k(base_weight_k)
    model <- model + step(mean)     parameters that are trained
    model <- model + mean           buffers, such as BatchNorm's statistics, and integers

A variance that is stepped twice as far as the mean becomes negative. With staleness the weights are discounted and the
divisor is not, as in FedBuff (Nguyen et al. 2022), so that stale updates move the model less. Integer tensors are
rounded half to even; boolean ones stay as they are. An element that is infinite or NaN stays so: nothing moves it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from aggregator.rounds.accumulator import Accumulator
from aggregator.rounds.steps import Block, FedAvg, Step
from aggregator.state import ModelFile
from broker.states import DTYPES, is_finite
from broker.wire import Specs, TensorSpec, num_elements_of

_PLAIN = FedAvg()
"""A step that leaves the mean as it is: then all tensors move alike, and small ones together."""


class LeavesRange(Exception):
    """The mean takes the model out of the range of its dtype. The text names the tensor."""


@dataclass(frozen=True, slots=True)
class NextPiece:
    """A piece of the next model: part of one tensor, or several whole small ones."""

    span: Specs
    """The tensors that it belongs to; all have one dtype."""
    values: torch.Tensor
    """Flat."""
    state: Mapping[str, Block]
    """The step's state for the same elements, by name."""


def next_model(
    model: ModelFile,
    specs: Specs,
    accumulator: Accumulator,
    step: Step,
    *,
    total: int,
    stepped: Collection[str],
    state: Mapping[str, ModelFile] | None = None,
) -> Iterator[NextPiece]:
    """The next global model, in the order of ``specs``. Uses up the accumulator.

    ``total`` is the divisor of the mean; 0 leaves model and state as they are. ``stepped`` are the names of the tensors
    that the step moves; all others move by the mean, and keep the state that the step begins with. ``state`` has the
    files of the step's state; if it is empty, the step begins. LeavesRange if a finite element would not stay so.
    """
    with ExitStack() as stack:
        remembered = {name: stack.enter_context(file.floats(specs)) for name, file in (state or {}).items()}
        spans = accumulator.spans(specs)
        if step != _PLAIN:
            spans = _apart(spans, stepped)
        for span, start, values in model.values(specs, spans):
            num = len(values)
            before = {name: floats.take(num) for name, floats in remembered.items()} if state else step.init(num)
            after = {name: np.array(block) for name, block in before.items()}
            if total and span[0].name in accumulator:
                for block, mean in accumulator.means(span, total, start=start, num=num):
                    change: Block = mean
                    if span[0].name in stepped:
                        change, moved = step.apply(mean, {name: floats[block] for name, floats in before.items()})
                        for name, floats in moved.items():
                            after[name][block] = floats
                    moved_block = _moved(values[block], torch.from_numpy(change), span[0])
                    if not is_finite(moved_block):
                        _check_stays_finite(values[block], moved_block, span, start + block.start)
                    values[block] = moved_block
                if start + num == num_elements_of(span):
                    accumulator.forget(span)
            yield NextPiece(span, values, after)


def _check_stays_finite(old: torch.Tensor, new: torch.Tensor, span: Specs, first: int) -> None:
    """``first`` is the place in the span of the first element of both."""
    broken = torch.isfinite(old) & ~torch.isfinite(new)
    if not broken.any():
        return
    place = first + int(broken.nonzero()[0])
    for spec in span:
        if place < spec.num_elements:
            raise LeavesRange(f"the mean leaves the range of tensor '{spec.name}'; lower --server-lr or --lr")
        place -= spec.num_elements


def _apart(spans: Iterable[Specs], stepped: Collection[str]) -> Iterator[Specs]:
    """The spans, cut where a tensor that is stepped lies beside one that is not."""
    for span in spans:
        for _, alike in groupby(span, key=lambda spec: spec.name in stepped):
            yield tuple(alike)


def _moved(old: torch.Tensor, change: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    dtype = DTYPES[spec.dtype]
    if spec.is_float:
        return change.add_(old).to(dtype)
    limits = torch.iinfo(dtype)
    before, rounded = old.to(torch.int64), change.round_().to(torch.int64)
    moved = before + rounded
    has_wrapped = ((before ^ moved) & (rounded ^ moved)) < 0
    moved = torch.where(has_wrapped, torch.where(rounded < 0, limits.min, limits.max), moved)
    return moved.clamp_(limits.min, limits.max).to(dtype)
