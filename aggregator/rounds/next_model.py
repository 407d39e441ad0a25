"""The next global model from the updates of a round, piece by piece: neither model is ever in memory as a whole.

    mean  = sum_k(weight_k * delta_k) / sum_k(base_weight_k)
    model <- model + step(mean)

With staleness the weights are discounted and the divisor is not, as in FedBuff (Nguyen et al. 2022), so that stale
updates move the model less. Integer tensors are rounded half to even; boolean ones stay as they are.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from aggregator.rounds.accumulator import Accumulator
from aggregator.rounds.steps import Block, Step
from aggregator.state import ModelFile
from broker.states import DTYPES
from broker.wire import Specs, TensorSpec, num_elements_of


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
    state: Mapping[str, ModelFile] | None = None,
) -> Iterator[NextPiece]:
    """The next global model, in the order of ``specs``. Uses up the accumulator.

    ``total`` is the divisor of the mean; 0 leaves model and state as they are. ``state`` has the files of the step's
    state; if it is empty, the step begins.
    """
    with ExitStack() as stack:
        remembered = {name: stack.enter_context(file.floats(specs)) for name, file in (state or {}).items()}
        for span, start, values in model.values(specs, accumulator.spans(specs)):
            num = len(values)
            before = {name: floats.take(num) for name, floats in remembered.items()} if state else step.init(num)
            after = {name: np.array(block) for name, block in before.items()}
            if total and span[0].name in accumulator:
                for block, mean in accumulator.means(span, total, start=start, num=num):
                    change, moved = step.apply(mean, {name: floats[block] for name, floats in before.items()})
                    values[block] = _moved(values[block], torch.from_numpy(change), span[0])
                    for name, floats in moved.items():
                        after[name][block] = floats
                if start + num == num_elements_of(span):
                    accumulator.forget(span)
            yield NextPiece(span, values, after)


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
