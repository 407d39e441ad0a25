"""Your own model and data in one file, which imports nothing of fedmq.

fl-simulate --task examples/own_task.py:Spirals --workers 5 --rounds 20
"""

import math
import zlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def spirals(num_samples: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Points on two interleaved spirals. Read your site's own files or database here instead."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (num_samples,), generator=random)
    radius = 0.2 + torch.rand(num_samples, generator=random)
    angle = 4 * radius + math.pi * labels
    points = radius * torch.stack([angle.cos(), angle.sin()])
    return points.T + 0.03 * torch.randn(num_samples, 2, generator=random), labels


class Spirals:
    """A task: it is enough to have these three methods, and a constructor that takes the site."""

    def __init__(self, site: Any) -> None:
        name = site.name or "aggregator"  # which only evaluates; without test data, evaluate would return {}
        self.training = spirals(100, seed=zlib.crc32(name.encode()))
        self.test = spirals(1000, seed=0)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def train(self, model: nn.Module, plan: Any) -> dict[str, float]:
        points, labels = self.training
        optimizer = torch.optim.SGD(model.parameters(), lr=plan.lr, momentum=plan.momentum)
        random = torch.Generator().manual_seed(plan.seed)
        for _ in range(plan.epochs):
            for batch in torch.randperm(len(points), generator=random).split(plan.batch_size or len(points)):
                if plan.cancelled():
                    return {"num_samples": len(points)}
                optimizer.zero_grad()
                cross_entropy(model(points[batch]), labels[batch]).backward()
                optimizer.step()
        return {"num_samples": len(points)}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        points, labels = self.test
        with torch.no_grad():
            is_right = model(points).argmax(dim=1) == labels
        return {"num_samples": len(points), "accuracy": is_right.float().mean().item()}
