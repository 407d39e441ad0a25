"""Error feedback: what a lossy compression left out of one update is added to the next (Seide et al. 2014, 1-bit SGD).

    total    = delta + residual
    residual = total - what the aggregator decodes

So all decoded updates and the residual add up to the sum of all deltas, and nothing is lost for good.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from broker.states import Encoding, State
from worker.rounds.trainer import Diverged


@dataclass(frozen=True, slots=True)
class Compressed:
    """A delta in the form in which it travels."""

    encoded: State
    residual: State
    """What is left of each lossy tensor for the next round: float64 for a float64 delta, otherwise float32."""


def compress(delta: State, residual: State, encoding: Encoding, *, seed: int) -> Compressed:
    """The delta and the last round's residual, encoded. The same arguments give the same bits."""
    if encoding.compression.method == "none":
        return Compressed(delta, {})
    encoded: dict[str, torch.Tensor] = {}
    left: dict[str, torch.Tensor] = {}
    lossy = set(encoding.lossy)
    for spec in encoding.specs:  # tensor by tensor, so that memory holds no second whole delta
        if spec not in lossy:
            encoded |= encoding.encode_tensor(spec, delta[spec.name], seed=seed)
            continue
        total = _total(delta[spec.name], residual.get(spec.name))
        if not bool(torch.isfinite(total).all()):
            raise Diverged(f"the delta plus the residual of the last one leaves the range of '{spec.name}'")
        encoded |= (sent := encoding.encode_tensor(spec, total, seed=seed))
        left[spec.name] = total - encoding.decoded(sent, spec)
    return Compressed(encoded, left)


def decoded(compressed: Compressed, encoding: Encoding, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """What is folded of an update, float64: the floating-point tensors among ``names``, one after the other."""
    is_plain = encoding.compression.method == "none"
    for spec in encoding.specs:
        if spec.is_float and spec.name in names:
            encoded = compressed.encoded
            values = encoded[spec.name] if is_plain else encoding.decoded(encoded, spec)
            yield spec.name, values.to(torch.float64)


def norm_of(compressed: Compressed, encoding: Encoding, names: Collection[str]) -> float:
    """The Euclidean norm of what is folded of an update, over the floating-point tensors among ``names``."""
    return math.sqrt(math.fsum(float(values.square().sum()) for _, values in decoded(compressed, encoding, names)))


def _total(delta: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    wide = delta if delta.dtype == torch.float64 else delta.to(torch.float32)
    return wide if residual is None else wide + residual
