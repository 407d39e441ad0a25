"""The coordinate-wise median (Yin, Chen, Ramchandran & Bartlett 2018, arXiv 1803.01498, definition 1).

out_j = the middle value of x_1j, ..., x_nj; of an even number the mean of the two in the middle
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aggregator.robust.rule import Columns, Floats


@dataclass(frozen=True, slots=True)
class Median:
    """Holds against any minority, in each coordinate by itself."""

    fewest: ClassVar[int] = 3
    """Of fewer than three, one is no minority."""
    fewest_advised: ClassVar[int] = 3

    def combine(self, columns: Columns) -> Floats:
        num = len(columns)
        middle: Floats = np.add(columns[(num - 1) // 2], columns[num // 2], dtype=np.float64)
        return np.multiply(middle, 0.5, out=middle)
