"""Quantiles from counts: the bin that holds the sample of a rank, cut into bins again in the next round.

The p-quantile of n values is the smallest that at least ``ceil(p n)`` of them do not exceed: the value of that rank.
Counts are exact and add up over sites, so its bin is known for sure; after r rounds with b bins, that is as narrow as
the range / b**r.
"""

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Counts = NDArray[np.int64]


def edges_of(low: float, high: float, num_bins: int) -> Values:
    """The ``num_bins + 1`` edges of equal bins; the same on every machine."""
    width = high / num_bins - low / num_bins  # their difference alone may be beyond float64
    edges = low + width * np.arange(num_bins + 1, dtype=np.float64)
    edges[-1] = high
    return np.maximum.accumulate(np.clip(edges, low, high))


def histogram(values: Values, low: float, high: float, num_bins: int) -> Counts:
    """How many values lie below ``low``, in each bin (from its lower edge on; the last with both), above ``high``."""
    places = np.searchsorted(edges_of(low, high, num_bins), values, side="right")
    places = np.where(values == high, num_bins, places)
    return np.bincount(places, minlength=num_bins + 2).astype(np.int64)


def rank_of(level: float, num: int) -> int:
    """Of the value that is the quantile of this level, counted from 1."""
    return min(num, max(1, math.ceil(level * num)))


def bracket_of(
    counts: Counts, bracket: tuple[float, float], lowest: float, highest: float, rank: int
) -> tuple[float, float]:
    """The bin in which the value of this rank lies, of a ``histogram`` with this range."""
    edges = np.concatenate([[lowest], edges_of(*bracket, len(counts) - 2), [highest]])
    place = int(np.searchsorted(np.cumsum(counts), rank))
    if place >= len(counts):  # of fewer values than there are: some were withheld
        return lowest, highest
    return float(min(edges[place], edges[place + 1])), float(max(edges[place], edges[place + 1]))
