"""Stochastic gradient descent with momentum, to the bits of `torch.optim.SGD`.

The first step of an optimizer of `torch.optim` imports the compiler, `torch._dynamo`, which takes as long as torch
itself; this one does not. Each step is a few calls over all parameters, however many there are.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Optimizer(Protocol):
    """What training asks of an optimizer; those of `torch.optim` are some."""

    def zero_grad(self) -> Any: ...
    def step(self) -> Any: ...


class SGD:
    """v <- momentum * v + gradient;  w <- w - lr * v.

    v is the first gradient at first (Sutskever et al. 2013, as PyTorch has it). A parameter without a gradient stays.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, lr: float, momentum: float = 0.0) -> None:
        if not parameters:
            raise ValueError("there are no parameters to train")
        self._parameters = list(parameters)
        self._lr, self._momentum = lr, momentum
        self._velocities: dict[nn.Parameter, Tensor] = {}

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Moves the parameters along their gradients."""
        moved = [parameter for parameter in self._parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        changes = self._changes(moved, gradients) if self._momentum else gradients
        _add(moved, changes, -self._lr)

    def _changes(self, moved: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> list[Tensor]:
        known = [(parameter, gradient) for parameter, gradient in zip(moved, gradients, strict=True)]
        going_on = [
            (self._velocities[parameter], gradient) for parameter, gradient in known if parameter in self._velocities
        ]
        if going_on:
            velocities, added = zip(*going_on, strict=True)
            torch._foreach_mul_(velocities, self._momentum)
            _add(velocities, added, 1.0)
        for parameter, gradient in known:
            if parameter not in self._velocities:
                self._velocities[parameter] = gradient.detach().clone()
        return [self._velocities[parameter] for parameter in moved]


def _add(to: Sequence[Tensor], changes: Sequence[Tensor], factor: float) -> None:
    """Adds ``factor`` times each change; sparse ones, which cannot be added all at once, one by one."""
    if any(change.is_sparse for change in changes):
        for tensor, change in zip(to, changes, strict=True):
            tensor.add_(change, alpha=factor)
    elif to:
        torch._foreach_add_(list(to), list(changes), alpha=factor)
