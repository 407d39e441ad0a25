"""A task whose optimizer remembers: each site's AdamW goes on where its last training left off.

fl-simulate --task examples/remembering.py:Remembering --workers 4 --rounds 10
fl-worker --task examples/remembering.py:Remembering --name hospital-a --state state
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss


class Remembering:
    def __init__(self, site):
        random = torch.Generator().manual_seed(0 if site.is_aggregator else 1 + (site.index or 0))
        self.inputs = torch.randn(64, 4, generator=random)
        self.targets = self.inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])

    def model(self):
        return nn.Linear(4, 1)

    def train(self, model, plan):
        optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr)
        recall(optimizer, plan.memory)
        for _ in range(plan.epochs):
            if plan.cancelled():
                break
            optimizer.zero_grad()
            loss = mse_loss(model(self.inputs), self.targets)
            loss.backward()
            optimizer.step()
        remember(optimizer, plan.memory)
        return {"num_samples": len(self.inputs), "loss": loss.item(), "lr": plan.lr}

    @torch.no_grad()
    def evaluate(self, model):
        return {"loss": mse_loss(model(self.inputs), self.targets).item(), "num_samples": len(self.inputs)}


def recall(optimizer, memory):
    """Gives an optimizer what ``remember`` kept of it; nothing in the first round."""
    state = optimizer.state_dict()
    for name, value in memory.items():
        parameter, _, key = name.partition(".")
        state["state"].setdefault(int(parameter), {})[key] = value
    optimizer.load_state_dict(state)


def remember(optimizer, memory):
    """Keeps the state of any of PyTorch's optimizers, a tensor or a number under each name."""
    for parameter, values in optimizer.state_dict()["state"].items():
        memory.update({f"{parameter}.{key}": value for key, value in values.items()})
