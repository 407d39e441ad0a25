"""Ridge regression by its normal equations: one round, and the weights are those of all samples in one place.

    fl-simulate --task examples/ridge.py:task --workers 5 --rounds 1 --partition dirichlet:0.5

    (X'X + penalty) w = X'y        X'X and X'y are sums over samples, so each site sends its own, and they add up

Here the radius of cell nuclei follows from their other measures, which differ by orders of magnitude: nothing has to be
scaled, since sums are exact in any range.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learning import Site
from learning.bundled import bundled, share_out

PENALTY = 1.0
NUM_WEIGHTS = 30
"""Of 29 measures and a constant."""


class Weights(nn.Module):
    """The weights, and room for what they follow from."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(NUM_WEIGHTS, dtype=torch.float64))
        self.register_buffer("gram", torch.zeros(NUM_WEIGHTS, NUM_WEIGHTS, dtype=torch.float64))
        self.register_buffer("moments", torch.zeros(NUM_WEIGHTS, dtype=torch.float64))


class Ridge:
    """``sums`` and ``apply`` in place of ``train``: the task is summed up."""

    operations = {"gram": "sum", "moments": "sum"}  # noqa: RUF012

    def __init__(self, site: Site) -> None:
        split = share_out(*bundled("breast_cancer"), site)
        self.samples, self.held_out = rows(split.train), rows(split.test)

    def model(self) -> nn.Module:
        return Weights()

    def sums(self, model: nn.Module, plan: object) -> Mapping[str, object]:
        inputs, targets = self.samples
        return {"gram": inputs.T @ inputs, "moments": inputs.T @ targets, "num_samples": len(targets)}

    def apply(self, model: nn.Module, sums: Mapping[str, Tensor]) -> None:
        model.gram.copy_(sums["gram"])
        model.moments.copy_(sums["moments"])
        model.weights.copy_(solved(model.gram, model.moments))

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        inputs, targets = self.held_out
        error = (inputs @ model.weights - targets).square()
        return {"mse": float(error.mean()), "num_samples": len(targets)} if len(targets) else {}


def solved(gram: Tensor, moments: Tensor) -> Tensor:
    """The weights that normal equations have, all but the constant's drawn towards 0."""
    penalty = PENALTY * torch.eye(NUM_WEIGHTS, dtype=torch.float64)
    penalty[-1, -1] = 0
    return torch.linalg.solve(gram + penalty, moments)


def rows(samples: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """All measures but the first, and a constant; and the first, which follows from them."""
    measures = torch.empty(0, 30, dtype=torch.float64) if samples is None else samples[0].double()
    constant = torch.ones(len(measures), 1, dtype=torch.float64)
    return torch.cat([measures[:, 1:], constant], dim=1), measures[:, 0]


task = Ridge
