"""A regression of 204 parameters that trains in a millisecond, on data that follow from the site's name."""

import os
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

NUM_INPUTS, NUM_OUTPUTS = 16, 12
NUM_BYTES = 4 * (NUM_INPUTS + 1) * NUM_OUTPUTS


class Tiny:
    """Takes as many seconds as PACE says, if it says something: so that workers finish in turn, or slowly."""

    def __init__(self, site: Any, sleep: Callable[[float], None] = time.sleep) -> None:
        number = zlib.crc32((site.name or "").encode())
        random = np.random.default_rng(number)
        self._inputs = torch.from_numpy(random.standard_normal((20 + number % 13, NUM_INPUTS), np.float32))
        self._targets = torch.from_numpy(random.standard_normal((len(self._inputs), NUM_OUTPUTS), np.float32))
        self._sleep = sleep

    def model(self) -> nn.Module:
        return nn.Linear(NUM_INPUTS, NUM_OUTPUTS)

    def train(self, model: nn.Module, plan: Any) -> dict[str, float]:
        pace_s = float(os.environ.get("PACE", "0"))
        random = torch.Generator().manual_seed(plan.seed)
        loss, num_steps = torch.zeros(()), 0
        for _ in range(3):
            if plan.cancelled():
                break
            self._sleep(pace_s / 3)
            chosen = torch.randint(len(self._inputs), (8,), generator=random)
            loss = nn.functional.mse_loss(model(self._inputs[chosen]), self._targets[chosen])
            model.zero_grad()
            loss.backward()
            plan.correct(model.parameters())
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(plan.lr * parameter.grad)
            num_steps += 1
        figures = {"update_norm1": float(num_steps)} if "update_norm1" in plan.figures else {}
        return {"num_samples": len(self._inputs), "loss": float(loss.detach())} | figures

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"loss": float(nn.functional.mse_loss(model(self._inputs), self._targets))}
