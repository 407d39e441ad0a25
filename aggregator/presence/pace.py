"""How often workers are to give a sign of life, so that those of many cost no more than those of some. Pure."""

import math

from broker.wire import MAX_PRESENCE_EVERY_S, PRESENCE_EVERY_S

SIGNS_PER_S = 50.0
"""Of all workers together. One of a worker that is still there costs the aggregator 0.04 ms besides receiving it."""


def asked_every_s(num_present: int) -> float | None:
    """The interval that keeps to SIGNS_PER_S, in steps of 10 s; None: the usual one does (up to 500 workers).

    From 3,000 workers on it is the longest, 60 s: a worker that is gone counts as present for 3.5 times as long.
    """
    steps = math.ceil(num_present / (SIGNS_PER_S * PRESENCE_EVERY_S))
    return None if steps <= 1 else min(steps * PRESENCE_EVERY_S, MAX_PRESENCE_EVERY_S)
