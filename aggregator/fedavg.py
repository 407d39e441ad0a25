"""Federated averaging (McMahan et al. 2017, algorithm 1): the next global model out of an exact sum.

    model <- model + server_lr * sum_k(weight_k * delta_k) / sum_k(num_samples_k)

With staleness the weights are discounted and the divisor is not, as in FedBuff (Nguyen et al. 2022), so that stale
updates move the model less. Integer tensors are rounded half to even; boolean ones stay as they are.
"""

import math
from collections.abc import Iterator

import torch

from aggregator.checkpoint import ModelFile
from aggregator.mean import ExactSum
from broker.tensors import DTYPES, Specs, TensorSpec

_EXACT_UNCARRIED = 2.0**20
"""Below it a quotient does not depend on what was carried; from here on only equal limbs give equal quotients."""


def discount(staleness: int) -> float:
    """The factor on the weight of an update that is so many rounds behind (FedBuff, section 5)."""
    return 1.0 if staleness == 0 else 1.0 / math.sqrt(1 + staleness)


def next_tensors(
    model: ModelFile, specs: Specs, exact_sum: ExactSum, *, total: int, server_lr: float
) -> Iterator[tuple[TensorSpec, torch.Tensor]]:
    """The next global model, tensor by tensor in the order of ``specs``.

    Takes the sum apart on the way: neither model lies in memory whole, and the sum shrinks.
    """
    if exact_sum.bound >= _EXACT_UNCARRIED:
        exact_sum.carry()
    travelled = {spec.name: spec for spec in exact_sum.specs}
    for spec, (name, old) in zip(specs, model.tensors(specs), strict=True):
        of_delta = travelled.get(name)
        if of_delta is None or total == 0:
            yield spec, old
            continue
        yield spec, _stepped(old, exact_sum, of_delta, spec, total=total, server_lr=server_lr)
        exact_sum.forget(of_delta)


def _stepped(
    old: torch.Tensor, exact_sum: ExactSum, travelled: TensorSpec, spec: TensorSpec, *, total: int, server_lr: float
) -> torch.Tensor:
    """One tensor after the step, made block by block: beside the old and the new one, nothing of its size is held."""
    new = torch.empty(old.shape, dtype=old.dtype)
    before, after = old.reshape(-1), new.view(-1)
    for block, mean in exact_sum.means(travelled, total):
        after[block] = _moved(before[block], torch.from_numpy(mean).mul_(server_lr), spec)
    return new


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
