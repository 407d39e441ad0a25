"""What a single update may do to a round: how much of the sum's range it may take, and where it may take the model.

Both are checked while its body is read, so that the update that breaks a limit is refused, and not the last to arrive.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.wire import MAX_SUM, Buffer, Specs
from console import UnfitMessage

MOST_OF_ONE_UPDATE = MAX_SUM / 8
"""What |weight * delta| of a single update must stay below: an eighth of the range that all of a round share."""

_MOST_HALF = float(np.finfo(np.float16).max)

Halves = Mapping[str, NDArray[np.float16]]
"""The float16 tensors of a model, flat, by name."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The limits of each update in one round. ``specs`` are those of what is folded from it."""

    specs: Specs = ()
    most: float = MOST_OF_ONE_UPDATE
    """What |weight * delta| must stay below for every element."""
    halves: Halves = field(default_factory=dict)
    """Of the model. A mean of updates that each stay in the range of float16 stays in it, too."""

    def check(self, offset: int, piece: Buffer) -> None:
        """An UnfitMessage if a piece of a delta, from byte ``offset`` on, takes the model out of its range."""
        if not self.halves:
            return
        view, begin = memoryview(piece), 0
        for spec in self.specs:
            end = begin + spec.num_bytes
            low, high = max(begin, offset), min(end, offset + len(view))
            if low < high and spec.name in self.halves:
                delta = np.frombuffer(view[low - offset : high - offset], spec.dtype)
                first = (low - begin) // spec.item_bytes
                self._check_values(spec.name, self.halves[spec.name][first : first + len(delta)], delta)
            begin = end

    def _check_values(self, name: str, model: NDArray[np.float16], delta: NDArray[Any]) -> None:
        with np.errstate(invalid="ignore"):  # NaN and infinity are found, and told, where the update is added
            moved = float(np.max(np.abs(np.add(model, delta, dtype=np.float64))))
        if _MOST_HALF < moved < np.inf:
            raise UnfitMessage(
                f"it takes tensor '{name}' to {moved:.4g}, out of the range of float16 ({_MOST_HALF:.0f})"
            )
