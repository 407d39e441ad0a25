"""Stopping before the last round, on a metric. A pure function of the rounds so far, so a restart decides the same."""

from collections.abc import Iterable, Mapping
from typing import Any

from console import is_smaller_better


def metric_of(row: Mapping[str, Any], metric: str) -> float | None:
    """The value of a metric in a ledger's round: of the central evaluation, or else what workers measured."""
    value = row["metrics"].get(metric, row["worker_metrics"].get(metric))
    return None if value is None else float(value)


def best_round(rounds: Iterable[Mapping[str, Any]], metric: str) -> tuple[int, float] | None:
    """The first round with the best value, and the value; None if no round has the metric."""
    sign = -1.0 if is_smaller_better(metric) else 1.0
    best: tuple[int, float] | None = None
    for row in rounds:
        value = metric_of(row, metric)
        if value is not None and (best is None or sign * value > sign * best[1]):
            best = (int(row["round"]), value)
    return best


def reason_to_stop(
    rounds: Iterable[Mapping[str, Any]], metric: str, *, stop_at: float | None, patience: int, last_round: int
) -> str | None:
    """Why the run is to end after ``last_round``, in words; None to go on."""
    best = best_round(rounds, metric)
    if best is None:
        return None
    number, value = best
    if stop_at is not None and (value <= stop_at if is_smaller_better(metric) else value >= stop_at):
        return f"{metric} reached {value:.4g} in round {number}"
    if patience and last_round - number >= patience:
        return f"{metric} was not better than in round {number} ({value:.4g}) for {patience} rounds"
    return None
