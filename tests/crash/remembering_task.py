"""The tiny regression with what sites do besides: they remember, have no update at times, and alone can evaluate."""

from typing import Any

import torch
from crash.tiny_task import Tiny
from torch import nn

DIVERGING = {("cleo", 2), ("ben", 3)}
"""(site, round) whose training ends in NaN."""


class Remembering(Tiny):
    """Momentum that lives in ``plan.memory``; so a round that began with another memory has other bits."""

    def __init__(self, site: Any) -> None:
        super().__init__(site)
        self._site = site

    def train(self, model: nn.Module, plan: Any) -> dict[str, float]:
        before = [parameter.detach().clone() for parameter in model.parameters()]
        measured = super().train(model, plan)
        with torch.no_grad():
            for (name, parameter), old in zip(model.named_parameters(), before, strict=True):
                momentum = plan.memory.setdefault(name, torch.zeros_like(old))
                momentum.mul_(0.5).add_(parameter - old)
                parameter.copy_(old + momentum)
                if (self._site.name, plan.round) in DIVERGING:
                    parameter.fill_(float("nan"))
        plan.memory["trainings"] = plan.memory.get("trainings", 0) + 1
        return measured

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {} if self._site.is_aggregator else super().evaluate(model)
