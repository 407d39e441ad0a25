"""Which models stay on the disk."""

from collections.abc import Iterable, Mapping
from typing import Any

from aggregator.state.early_stop import best_round

_USUAL_METRICS = ("accuracy", "loss", "eval.accuracy", "eval.loss")


def best_of(rounds: Iterable[Mapping[str, Any]], metric: str | None) -> tuple[str, int, float] | None:
    """(metric, round, value) of the best round: by ``metric``, or else by the first usual one that there is."""
    rows = list(rounds)
    for name in (metric,) if metric else _USUAL_METRICS:
        best = best_round(rows, name)
        if best is not None:
            return (name, *best)
    return None


def rounds_to_keep(last: int, best: int | None, *, keep_every: int) -> set[int]:
    """The last model and the one before it, the best one, and each ``keep_every``-th."""
    keep = {last, last - 1} | ({best} if best is not None else set())
    return keep | (set(range(0, last + 1, keep_every)) if keep_every else set())
