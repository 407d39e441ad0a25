"""A learning problem for the matrix: a few numbers of each kind that is averaged in its own way.

Parameters in float32 and in half precision (which have a master), and the statistics of a batch norm: floating-point
buffers and an integer. Sites differ in samples and in local steps.
"""

import zlib
from typing import Any

import torch
from torch import nn

from learning import Plan

NUM_INPUTS, NUM_OUTPUTS, BATCH = 3, 2, 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(NUM_INPUTS)
        self.linear = nn.Linear(NUM_INPUTS, NUM_OUTPUTS)
        self.scale = nn.Parameter(torch.ones(NUM_OUTPUTS, dtype=torch.float16))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(inputs)) * self.scale.float()


class Learner:
    """The task at one site, whose data follow from its name. It remembers a momentum in ``plan.memory``."""

    def __init__(self, name: str | None) -> None:
        number = zlib.crc32((name or "").encode())
        random = torch.Generator().manual_seed(number)
        self._inputs = torch.randn(10 + number % 7, NUM_INPUTS, generator=random) + number % 3
        self._targets = torch.randn(len(self._inputs), NUM_OUTPUTS, generator=random)
        self._num_steps = 1 + number % 3

    def model(self) -> nn.Module:
        return Net()

    def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
        loss_before = float(self._loss(model, slice(None)).detach())
        random = torch.Generator().manual_seed(plan.seed)
        parameters = list(model.parameters())
        velocity = plan.memory.get("velocity", torch.zeros(NUM_OUTPUTS, NUM_INPUTS))
        for _ in range(self._num_steps):
            chosen = torch.randint(len(self._inputs), (BATCH,), generator=random)
            model.zero_grad()
            self._loss(model, chosen).backward()
            plan.correct(parameters)
            with torch.no_grad():
                for parameter in parameters:
                    parameter.sub_(plan.lr * parameter.grad)  # type: ignore[operator]
                velocity = 0.5 * velocity + model.linear.weight.grad  # type: ignore[operator, union-attr]
                model.linear.weight.sub_(0.5 * plan.lr * velocity)  # type: ignore[operator, union-attr]
        plan.memory["velocity"] = velocity
        known = {
            "num_steps": float(self._num_steps),
            "update_norm1": plan.update_norm1(self._num_steps),
            "loss_before": loss_before,
            "aggregation_weight": len(self._inputs) / self._num_steps,
        }
        figures = {name: value for name, value in known.items() if name in plan.figures}
        return {"num_samples": len(self._inputs), "loss": loss_before} | figures

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}

    def _loss(self, model: nn.Module, chosen: Any) -> torch.Tensor:
        return nn.functional.mse_loss(model(self._inputs[chosen]), self._targets[chosen])
