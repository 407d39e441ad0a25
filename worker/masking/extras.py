"""What a masked update says of itself besides its delta, in integers that add up; see ``EXTRAS``. Pure."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from broker.wire import EXTRA_STEP, MAX_EXTRA


def extras_of(
    names: Sequence[str], metrics: Mapping[str, float], *, weight: int, is_within: bool | None = None
) -> NDArray[np.int64]:
    """The weight; for each of these metrics the weight and that times the metric, or 0 and 0; 1/2 or -1/2 if
    ``is_within`` the clip or not, None: neither.

    A metric that is not there, is no finite number, or is too large to travel counts as one that the worker lacks.
    """
    numbers = [float(weight)]
    for name in names:
        value = metrics.get(name, math.nan)
        numbers += (weight, weight * value) if abs(weight * value) < MAX_EXTRA else (0.0, 0.0)
    numbers += [] if is_within is None else [is_within - 0.5]
    return np.array([round(number / EXTRA_STEP) for number in numbers], np.int64)
