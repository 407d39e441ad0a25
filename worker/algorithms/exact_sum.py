"""A worker's part of a sum that the aggregator keeps without rounding: two float64 in one tensor, (2, *shape).

The first is the nearest to what is kept, the second what it lacks (broker/states/grid.py).
"""

from typing import NamedTuple

import numpy as np
import torch

from broker.states import OnGrid

_BLOCK = 2**20
"""Elements that are reckoned with at once, so that a large tensor takes no memory a second time."""


class Part(NamedTuple):
    """``times * weight * values``, whose product with the weight is rounded to the grid."""

    values: torch.Tensor
    weight: float = 1.0
    times: int = 1


def with_parts(kept: torch.Tensor | None, *parts: Part) -> torch.Tensor:
    """What is kept once these are added; None: nothing was. OverflowError where a number is 2**30 or more."""
    shape = parts[0].values.shape
    flat = [part.values.flatten().numpy() for part in parts]
    after = np.zeros((2, len(flat[0]))) if kept is None else kept.reshape(2, -1).numpy().copy()
    for start in range(0, after.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        own = OnGrid.of(*after[:, block])
        for values, part in zip(flat, parts, strict=True):
            own = own.plus(OnGrid.rounded(values[block], part.weight), part.times)
        after[:, block] = own.floats()
    return torch.from_numpy(after).reshape(2, *shape)


def nearest(kept: torch.Tensor) -> torch.Tensor:
    """What is kept, as training takes it."""
    return kept[0]
