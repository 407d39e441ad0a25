"""A task of eight parameters whose trainings a test holds and releases with files; see federation.Gates."""

import os
import time
import zlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

GATES = Path(os.environ.get("GATES", "no-gates"))


class Attentive:
    """Asks, while it is held, whether its training is still wanted."""

    is_attentive: ClassVar[bool] = True

    def __init__(self, site: Any) -> None:
        self._name = site.name

    def model(self) -> nn.Module:
        return nn.Linear(3, 2)

    def train(self, model: nn.Module, plan: Any) -> dict[str, float]:
        if GATES.is_dir():
            self._wait(plan)
        random = torch.Generator().manual_seed(plan.seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
        return {"num_samples": 10 + zlib.crc32(self._name.encode()) % 90}

    def _wait(self, plan: Any) -> None:
        (GATES / f"began.{self._name}.{plan.round}.{os.getpid()}").touch()
        while (GATES / f"hold.{self._name}.{plan.round}").exists():
            if self.is_attentive and plan.cancelled():
                return
            time.sleep(0.02)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"loss": sum(float(parameter.detach().square().sum()) for parameter in model.parameters())}


class Deaf(Attentive):
    """Trains to its end, whatever happens meanwhile."""

    is_attentive = False


class Loading(Deaf):
    """The same, with a process that loads its data."""

    def _wait(self, plan: Any) -> None:
        loader = DataLoader(TensorDataset(torch.ones(4, 3)), num_workers=1)
        for _ in loader:
            super()._wait(plan)
