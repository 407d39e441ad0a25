"""Federated averaging (McMahan et al. 2017, algorithm 1): the next global model out of an exact sum.

    model <- model + server_lr * sum_k(weight_k * delta_k) / sum_k(num_samples_k)

With staleness the weights are discounted and the divisor is not, as in FedBuff (Nguyen et al. 2022), so that stale
updates move the model less. Integer tensors are rounded half to even; boolean ones stay as they are.
"""

import math
from collections.abc import Iterator

import torch

from aggregator.rounds.exact_sum import ExactSum
from aggregator.state import ModelFile
from broker.states import DTYPES
from broker.wire import Specs, TensorSpec, num_elements_of

_EXACT_UNCARRIED = 2.0**20
"""Below it a quotient does not depend on what was carried; from here on only equal limbs give equal quotients."""


def discount(staleness: int) -> float:
    """The factor on the weight of an update that is so many rounds behind (FedBuff, section 5)."""
    return 1.0 if staleness == 0 else 1.0 / math.sqrt(1 + staleness)


def next_values(
    model: ModelFile, specs: Specs, exact_sum: ExactSum, *, total: int, server_lr: float
) -> Iterator[tuple[Specs, torch.Tensor]]:
    """The next global model in the order of ``specs``, piece by piece, flat: of one tensor, or some small ones whole.

    Takes the sum apart on the way: neither model lies in memory whole, and the sum shrinks.
    """
    if exact_sum.bound >= _EXACT_UNCARRIED:
        exact_sum.carry()
    for span, start, values in model.values(specs, _spans(specs, exact_sum)):
        if total and span[0].name in exact_sum:
            for block, mean in exact_sum.means(span, total, start=start, num=len(values)):
                values[block] = _moved(values[block], torch.from_numpy(mean).mul_(server_lr), span[0])
            if start + len(values) == num_elements_of(span):
                exact_sum.forget(span)
        yield span, values


def _spans(specs: Specs, exact_sum: ExactSum) -> Iterator[Specs]:
    """What can be stepped at once: what follows each other in the model and in the sum."""
    span: list[TensorSpec] = []
    for spec in specs:
        if span and (spec.dtype != span[0].dtype or not exact_sum.follows(span[-1].name, spec.name)):
            yield tuple(span)
            span.clear()
        span.append(spec)
    if span:
        yield tuple(span)


def _moved(old: torch.Tensor, step: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    dtype = DTYPES[spec.dtype]
    if spec.is_float:
        return step.add_(old).to(dtype)
    limits = torch.iinfo(dtype)
    before, change = old.to(torch.int64), step.round_().to(torch.int64)
    moved = before + change
    has_wrapped = ((before ^ moved) & (change ^ moved)) < 0
    moved = torch.where(has_wrapped, torch.where(change < 0, limits.min, limits.max), moved)
    return moved.clamp_(limits.min, limits.max).to(dtype)
