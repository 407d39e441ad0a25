"""When a run ends: after its last round, or before on a metric. Pure over the rounds so far, so a restart agrees."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from console import is_smaller_better


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The rules for the end of a run."""

    rounds: int
    metric: str | None = None
    """Stop early on this metric of the central evaluation, or ``eval.NAME`` of the workers' own; None: never."""
    stop_at: float | None = None
    """Stop when the metric is as good as this."""
    patience: int = 0
    """Stop when the metric was not better for so many rounds; 0: never."""

    def reason_after(self, last_round: int, rounds: Iterable[Mapping[str, Any]]) -> str | None:
        """Why the run is to end after ``last_round``, in words; None to go on. ``rounds`` are the closed ones."""
        if last_round >= self.rounds:
            return f"all {self.rounds} rounds are done"
        if self.metric is None or last_round == 0:
            return None
        return reason_to_stop(rounds, self.metric, stop_at=self.stop_at, patience=self.patience, last_round=last_round)

    def goes_on_after(self, round_number: int) -> bool:
        """Whether another round follows for sure, whatever is measured."""
        return round_number < self.rounds and self.metric is None


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
