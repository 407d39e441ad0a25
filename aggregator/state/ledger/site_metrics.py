"""What the workers measured, as a row of the ledger has it: of a round's training, and of the model after that round.

A worker measures the model that it received: what comes with an update for round 6 is of the model after round 5, and
is in the row of round 5. Pure: rows in, figures out, the same for the same rows in any order.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learning import AT_SITES, IN_TRAINING, Measured, at_sites, but_at_sites

Medians = dict[str, tuple[float, float] | None]


@dataclass(frozen=True, slots=True)
class Reported:
    """What one worker said."""

    worker: str
    num_samples: int | None
    """It trained on so many, now or when it last did; None if that is not known."""
    metrics: Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class MostWeight:
    """How much one worker's evaluation may weigh in the means; see ``WeightLimits``, which is for updates."""

    samples: float | None = None
    """None: all that it says."""
    medians: float | None = None
    """As many times the median over the workers; None: no limit."""

    def of(self, weights: Sequence[float]) -> float:
        limits = [] if self.samples is None else [self.samples]
        if self.medians is not None and weights:
            limits.append(self.medians * sorted(weights)[(len(weights) - 1) // 2])
        return min(limits, default=math.inf)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of all workers together."""

    means: Mapping[str, float]
    """Weighted by samples, those of the evaluation where the task says how many, over the workers that have a finite
    value; if none has, what it is instead."""
    medians: Mapping[str, tuple[float, float] | None]
    """The middle value, or both of two, with one vote a worker; None if not more than half have a finite value.

    However many samples a worker claims, and whatever it reports, it cannot move these beyond its neighbours'.
    """
    num_not_finite: Mapping[str, int]
    """How many workers have a value that is no finite number, of those metrics where any has."""


_ALL = MostWeight()


def figures(*, trained: Iterable[Reported], measured: Iterable[Reported], most: MostWeight = _ALL) -> Figures:
    """Of both, under ``train.`` and ``eval.``; ``most`` is what one worker's evaluation may weigh."""
    parts = (_figures(IN_TRAINING, trained, _ALL), _figures(AT_SITES, measured, most))
    return Figures(
        means={key: value for part in parts for key, value in part.means.items()},
        medians={key: value for part in parts for key, value in part.medians.items()},
        num_not_finite={key: value for part in parts for key, value in part.num_not_finite.items()},
    )


def _figures(prefix: str, reported: Iterable[Reported], most: MostWeight) -> Figures:
    values: dict[str, list[tuple[float, float]]] = {}
    ordered = sorted(reported, key=lambda each: each.worker)
    said = [Measured.of(each.metrics) for each in ordered]
    weights = [
        float((each.num_samples or 1) if measured.num_samples is None else measured.num_samples)
        for each, measured in zip(ordered, said, strict=True)
    ]
    limit = most.of([weight for weight in weights if weight > 0])
    for measured, weight in zip(said, weights, strict=True):
        for name, value in measured.metrics.items():
            values.setdefault(f"{prefix}{name}", []).append((value, min(weight, limit)))
    num_workers = len({each.worker for each in ordered})
    return Figures(
        means={key: _mean(found) for key, found in values.items() if any(weight > 0 for _, weight in found)},
        medians={key: _middle([value for value, _ in found], num_workers) for key, found in values.items()},
        num_not_finite={
            key: number
            for key, found in values.items()
            if (number := sum(1 for value, _ in found if not math.isfinite(value)))
        },
    )


def _mean(found: list[tuple[float, float]]) -> float:
    finite = [(value, weight) for value, weight in found if weight > 0 and math.isfinite(value)]
    if not finite:
        return next(value for value, weight in found if weight > 0)
    total = weights = 0.0
    for value, weight in finite:
        total += weight * value
        weights += weight
    if math.isfinite(total):
        return total / weights
    return math.fsum(value * (weight / weights) for value, weight in finite)  # only the sum left the range


def _middle(values: list[float], num_workers: int) -> tuple[float, float] | None:
    finite = sorted(value for value in values if math.isfinite(value))
    if 2 * len(finite) <= num_workers:
        return None
    return finite[(len(finite) - 1) // 2], finite[len(finite) // 2]


def shifted(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a ledger of an earlier version, which has what workers measured of a model in the row after it."""
    keys = ("worker_metrics", "worker_medians")
    found = []
    for row, after in zip(rows, [*rows[1:], {}], strict=True):
        changed = dict(row)
        for key in keys:
            changed[key] = but_at_sites(row.get(key, {})) | at_sites(after.get(key, {}))
        found.append(changed)
    return found
