"""Federated averaging (McMahan et al. 2017, algorithm 1): the next global model out of an exact sum.

    model <- model + server_lr * sum_k(weight_k * delta_k) / sum_k(num_samples_k)

With staleness the weights are discounted and the divisor is not, as in FedBuff (Nguyen et al. 2022), so that stale
updates move the model less. Integer tensors are rounded half to even; boolean ones stay as they are.
"""

import math

import torch

from aggregator.checkpoint import ModelFile
from aggregator.mean import ExactSum
from broker.tensors import DTYPES, Specs, State, TensorSpec

_EXACT_UNCARRIED = 2.0**20
"""Below it a quotient does not depend on what was carried; from here on only equal limbs give equal quotients."""


def discount(staleness: int) -> float:
    """The factor on the weight of an update that is so many rounds behind (FedBuff, section 5)."""
    return 1.0 if staleness == 0 else 1.0 / math.sqrt(1 + staleness)


def next_state(model: ModelFile, specs: Specs, exact_sum: ExactSum, *, total: int, server_lr: float) -> State:
    """The next global model. Takes the sum apart tensor by tensor, so that both never lie in memory whole."""
    if exact_sum.bound >= _EXACT_UNCARRIED:
        exact_sum.carry()
    travelled = {spec.name: spec for spec in exact_sum.specs}
    state: State = {}
    by_name = {spec.name: spec for spec in specs}
    for name, old in model.tensors(specs):
        spec = travelled.get(name)
        if spec is None or total == 0:
            state[name] = old.clone()
            continue
        step = torch.from_numpy(exact_sum.divided(spec, total)) * server_lr
        exact_sum.forget(spec)
        state[name] = _moved(old, step, by_name[name])
    return state


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
