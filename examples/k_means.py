"""k-means over all sites at once: a round is one step of Lloyd's algorithm on the samples of all, as if in one place.

    fl-simulate --task examples/k_means.py:task --workers 5 --rounds 10 --partition dirichlet:0.5

Sites send, for each centre, the sum and the number of the samples that are nearest to it. Nothing is trained, nothing
is approximated: however the samples are spread over sites, the centres are the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learning import Site
from learning.digits import digits

NUM_CENTRES, NUM_PIXELS = 10, 64


class Centres(nn.Module):
    """The centres, and room for what sites say of them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centres", torch.randn(NUM_CENTRES, NUM_PIXELS, dtype=torch.float64))
        self.register_buffer("sum", torch.zeros(NUM_CENTRES, NUM_PIXELS, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(NUM_CENTRES, dtype=torch.int64))


class KMeans:
    """``sums`` and ``apply`` in place of ``train``: the task is summed up."""

    operations = {"sum": "sum", "count": "sum"}  # noqa: RUF012

    def __init__(self, site: Site) -> None:
        split = digits(site)
        self.samples = points(split.train)
        self.held_out = points(split.test)

    def model(self) -> nn.Module:
        return Centres()

    def sums(self, model: nn.Module, plan: object) -> Mapping[str, object]:
        nearest = torch.cdist(self.samples, model.centres).argmin(dim=1)
        is_near = nn.functional.one_hot(nearest, NUM_CENTRES)
        near = [self.samples[nearest == centre].sum(dim=0) for centre in range(NUM_CENTRES)]
        return {"sum": torch.stack(near), "count": is_near.sum(dim=0), "num_samples": len(self.samples)}

    def apply(self, model: nn.Module, sums: Mapping[str, Tensor]) -> None:
        is_used = sums["count"] > 0  # a centre without samples stays where it is
        model.centres[is_used] = sums["sum"][is_used] / sums["count"][is_used, None]
        model.sum.copy_(sums["sum"])
        model.count.copy_(sums["count"])

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        if not len(self.held_out):
            return {}
        squares = torch.cdist(self.held_out, model.centres).min(dim=1).values.square()
        return {"error": float(squares.mean()), "num_samples": len(squares)}


def points(samples: tuple[Tensor, Tensor] | None) -> Tensor:
    """Images as rows of pixels."""
    return torch.empty(0, NUM_PIXELS, dtype=torch.float64) if samples is None else samples[0].flatten(1).double()


task = KMeans
