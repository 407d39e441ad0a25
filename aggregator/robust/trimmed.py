"""The coordinate-wise trimmed mean (Yin, Chen, Ramchandran & Bartlett 2018, arXiv 1803.01498, definition 2).

out_j = mean of x_1j, ..., x_nj without the k smallest and the k largest;  k = ceil(share * n), or k itself
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from aggregator.robust.rule import Columns, Floats


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Holds against k false updates, in each coordinate by itself. With k = 0 it is the plain mean."""

    share: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    k: Annotated[int, Field(ge=0, le=100_000)] | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.k is None):
            raise ValueError("give a share below 0.5 (trimmed:0.2) or a number (trimmed:k=2) to cut on each side")

    def num_cut(self, num: int) -> int:
        """How many of ``num`` values are cut on each side."""
        if self.share is None:
            return self.k or 0
        return math.ceil(round(self.share * num, 9))  # 0.07 * 100 is a bit above 7

    @property
    def fewest(self) -> int:
        """From here on something is always left: n > 2k."""
        if self.share is None:
            return 2 * (self.k or 0) + 1
        num = math.ceil(2 / (1 - 2 * self.share)) + 1
        while num > 1 and num - 1 > 2 * self.num_cut(num - 1):
            num -= 1
        return num

    @property
    def fewest_advised(self) -> int:
        return self.fewest

    def combine(self, columns: Columns) -> Floats:
        num = len(columns)
        cut = self.num_cut(num)
        total = np.zeros(columns.shape[1])
        for row in columns[cut : num - cut]:
            total += row
        total /= num - 2 * cut
        return total
