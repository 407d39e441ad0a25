"""Error feedback: what a lossy compression left out of one update is added to the next (Seide et al. 2014; EF21's kin).

    total    = delta + residual
    residual = total - what the aggregator decodes

So the sum of all decoded updates and the residual is the sum of all deltas, and nothing is lost for good.
"""

from dataclasses import dataclass

import torch

from broker.compression import Encoding
from broker.tensors import State, first_not_finite
from worker.trainer import Diverged


@dataclass(frozen=True, slots=True)
class Compressed:
    """A delta in the form in which it travels."""

    encoded: State
    residual: State
    """What is left for the next round, of each lossy tensor: float64 for a float64 delta, otherwise float32."""


def compress(delta: State, residual: State, encoding: Encoding, *, seed: int) -> Compressed:
    """The delta and the last round's residual, encoded. The same arguments give the same bits."""
    totals = dict(delta)
    for spec in encoding.lossy:
        total = _widened(delta[spec.name])
        totals[spec.name] = total + residual[spec.name] if spec.name in residual else total
    broken = first_not_finite(totals)
    if broken:
        raise Diverged(
            f"the delta with the last round's residual leaves the range of '{broken}'; a smaller --lr may help"
        )
    encoded = encoding.encode(totals, seed=seed)
    left = {spec.name: totals.pop(spec.name) - encoding.decoded(encoded, spec) for spec in encoding.lossy}
    return Compressed(encoded, left)


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
