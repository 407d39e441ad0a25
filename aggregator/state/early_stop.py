"""When a run ends: after its last round, or earlier on a metric. A pure function of the rounds, so a restart agrees."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from learning import AT_SITES, IN_TRAINING, Direction, bare, but_at_sites

Best = tuple[int, float]
"""A round, and the value for which it is the best."""
BestBy = Literal["median", "weighted"]
"""How what several workers measured becomes one value, by which models are compared."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a run should become good at: a metric, and which direction is better. Without a metric, the usual ones."""

    metric: str | None = None
    direction: Direction | None = None
    """None: derived from the metric's name."""
    best_by: BestBy = "median"
    """What makes a model the best, of what workers measured: their median, with one vote each, or their mean, weighted
    by the samples that each evaluated on."""

    def direction_of(self, metric: str) -> Direction:
        """The run's direction for its own metric, wherever it is measured; other metrics go by their names."""
        is_ours = self.metric is not None and bare(metric) == bare(self.metric)
        return self.direction if is_ours and self.direction is not None else Direction.of(metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The rules for the end of a run."""

    rounds: int
    aim: Aim = Aim()
    """Stop early on its metric, from the central evaluation or, as ``eval.NAME``, the workers'; without one, never.

    Of the workers' values the median counts, so that one worker cannot end a run alone.
    """
    stop_at: float | None = None
    """Stop when the metric is at least as good as this."""
    finish_after: int | None = None
    """Stop after this round, since somebody asked for it; None: nobody did."""
    patience: int = 0
    """Stop when the metric has not improved for this number of rounds; 0: never."""
    only_evaluates: bool = False
    """There is nothing but the evaluation of a model."""

    def reason_after(self, last_round: int, best_after: Callable[[int, Aim], Best | None]) -> str | None:
        """Why the run is to end after ``last_round``, in words; None to go on.

        ``best_after`` says which of the rounds up to one is the best by a metric; see best_so_far.py.
        """
        if self.only_evaluates:
            return f"the model after round {last_round} was only measured (--evaluate-only)"
        if self.finish_after is not None and last_round >= self.finish_after and last_round < self.rounds:
            return f"asked to finish (fl-run finish) after round {last_round} of {self.rounds}"
        if last_round >= self.rounds:
            return f"all {self.rounds} rounds are done"
        if last_round == 0 or self.aim.metric is None:
            return None
        best = best_after(last_round, self.aim)
        return reason_to_stop(best, self.aim, stop_at=self.stop_at, patience=self.patience, last_round=last_round)

    def goes_on_after(self, round_number: int) -> bool:
        """Whether another round is certain to follow, whatever is measured."""
        is_last = self.finish_after is not None and round_number >= self.finish_after
        return round_number < self.rounds and not is_last and self.aim.metric is None


def without_sites(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as it was when its round closed: the sites have measured its model only since then."""
    kept = ("worker_metrics", "worker_medians")
    return dict(row) | {key: but_at_sites(row.get(key, {})) for key in kept}


def metric_of(row: Mapping[str, Any], metric: str, direction: Direction) -> float | None:
    """What a metric counts as in a ledger row of a round: from the central evaluation, or else from the workers.

    Of the workers, the median, and of two middle values the worse, if more than half of them measured it; rounds closed
    by 0.1.0 have only means. None of what is no finite number.
    """
    value = _counted(row, metric, direction)
    return value if value is None or math.isfinite(value) else None


def _counted(row: Mapping[str, Any], metric: str, direction: Direction) -> float | None:
    if metric in row["metrics"]:
        return float(row["metrics"][metric])
    medians = row.get("worker_medians", {})
    if metric in medians:
        if medians[metric] is None:
            return None
        lower, upper = medians[metric]
        return float(upper if direction is Direction.MIN else lower)
    value = row["worker_metrics"].get(metric)
    return None if value is None else float(value)


def weighted_mean_of(row: Mapping[str, Any], metric: str, direction: Direction) -> float | None:
    """The same by the mean over the workers, weighted by samples, if more than half of them measured the metric."""
    mean = row["worker_metrics"].get(metric)
    if metric in row["metrics"] or mean is None or row.get("worker_medians", {}).get(metric, ()) is None:
        return metric_of(row, metric, direction)
    return float(mean) if math.isfinite(mean) else None


def best_round(
    rounds: Iterable[Mapping[str, Any]],
    metric: str,
    direction: Direction,
    *,
    by: BestBy = "median",
    known: Best | None = None,
) -> Best | None:
    """The first round with the best value, and that value; None if no round has the metric.

    ``known`` is the same of earlier rounds.
    """
    value_of = metric_of if by == "median" else weighted_mean_of
    best = known
    for row in rounds:
        value = value_of(row, metric, direction)
        if value is not None and (best is None or direction.is_better(value, best[1])):
            best = (int(row["round"]), value)
    return best


def reason_to_stop(best: Best | None, aim: Aim, *, stop_at: float | None, patience: int, last_round: int) -> str | None:
    """Why the run is to end after ``last_round``, in words, with this best round by the aim's metric; None to go on."""
    if best is None or aim.metric is None:
        return None
    number, value = best
    if stop_at is not None and not aim.direction_of(aim.metric).is_better(stop_at, value):
        return f"{named(aim.metric)} reached {value:.4g} in round {number}"
    if patience and last_round - number >= patience:
        return f"{named(aim.metric)} was not better than in round {number} ({value:.4g}) for {patience} rounds"
    return None


def named(metric: str, by: BestBy = "median") -> str:
    """A metric in words, with what counts of what the workers measure: curves show the mean."""
    if not metric.startswith((AT_SITES, IN_TRAINING)):
        return metric
    return f"{metric} ({'median' if by == 'median' else 'weighted mean'} of the workers)"
