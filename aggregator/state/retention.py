"""Which models stay on the disk."""

from collections.abc import Iterable, Mapping
from typing import Any

from aggregator.state.early_stop import Aim, best_round
from learning import IN_TRAINING, USUAL_METRICS

_OF_MODELS = tuple(name for name in USUAL_METRICS if not name.startswith(IN_TRAINING))


def best_of(rounds: Iterable[Mapping[str, Any]], aim: Aim) -> tuple[str, int, float] | None:
    """(metric, round, value) of the best round: by the run's metric, or else by the first usual one that there is."""
    rows = list(rounds)
    for name in (aim.metric,) if aim.metric else _OF_MODELS:
        best = best_round(rows, name, aim.direction_of(name))
        if best is not None:
            return (name, *best)
    return None


def rounds_to_keep(last: int, best: int | None, *, keep_every: int) -> set[int]:
    """The last model and the one before it, the best one, and each ``keep_every``-th."""
    keep = {last, last - 1} | ({best} if best is not None else set())
    return keep | (set(range(0, last + 1, keep_every)) if keep_every else set())
