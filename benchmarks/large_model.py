"""A task that is nothing but size: MODEL_MB megabytes (300) in 20 tensors, and a training that adds a constant.

The model is random, and each training adds a different constant, so no two tensors have the same bytes. Otherwise, a
system that recognises equal bytes would be spared most of the work that is measured.

MODEL_BYTES, if set, gives the size in bytes instead, and MODEL_TENSORS the number of tensors. TRAIN_S, if set, has each
training wait so many seconds: as on a machine of its own, it then takes time and nothing of this machine.

To measure the aggregator's peak memory with two workers, over a RabbitMQ whose URL is in FEDMQ_BROKER:

/usr/bin/time -v fl-aggregator --task benchmarks/large_model.py:task --rounds 2 --quorum 2 --state /tmp/large &
fl-worker --task benchmarks/large_model.py:task --name a &
fl-worker --task benchmarks/large_model.py:task --name b
"""

import os
import time
from typing import Any

import torch
from torch import nn

NUM_TENSORS = 20
ITEM_BYTES = 4


class LargeModel:
    """The task; it has no data."""

    def model(self) -> nn.Module:
        num_bytes = int(os.environ.get("MODEL_BYTES") or int(os.environ.get("MODEL_MB", "300")) * 2**20)
        num_tensors = int(os.environ.get("MODEL_TENSORS") or NUM_TENSORS)
        num_elements = num_bytes // ITEM_BYTES // num_tensors
        return nn.ParameterList(nn.Parameter(torch.randn(num_elements)) for _ in range(num_tensors))

    def train(self, model: nn.Module, plan: Any) -> dict[str, float]:
        time.sleep(float(os.environ.get("TRAIN_S", "0")))
        constant = 0.001 * (1 + plan.seed % 1000)
        with torch.no_grad():
            torch._foreach_add_(list(model.parameters()), constant)
        return {"num_samples": 1}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


task = LargeModel()
