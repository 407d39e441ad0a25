"""Whether a run runs away: a loss is many times what it was at first, or no number any more.

Steps that are too long (``--server-lr``, ``--lr``) end no run: each model is finite, and worse than the one before. So
it is said once in a process. Of what workers measured the median counts: a few of them raise no alarm.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from aggregator.events import Event, RoundClosed, RunOpened, SitesMeasured
from learning import Direction

log = logging.getLogger(__name__)

_FACTOR = 10.0
"""Times the first value at which it is said: within a run that learns, losses only vary by less."""


class Runaway:
    """A watcher of one run."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, float]] = {}
        """Of each loss, the first round in which there was one, and its value."""
        self._is_told = False

    def __call__(self, event: Event) -> None:
        match event:
            case RunOpened(closed=rows):
                for row in rows:
                    self._note(row)
            case RoundClosed(row=row) | SitesMeasured(row=row):
                self._note(row)
                told = None if self._is_told else self._problem_in(row)
                if told is not None:
                    self._is_told = True
                    log.warning("round %d: %s: the model runs away; lower --server-lr or --lr", row["round"], told)

    def _note(self, row: Mapping[str, Any]) -> None:
        for name, value in _losses(row):
            if math.isfinite(value) and value > 0:
                self._first.setdefault(name, (row["round"], value))

    def _problem_in(self, row: Mapping[str, Any]) -> str | None:
        for name, value in _losses(row):
            if not math.isfinite(value):
                return f"{name} is no finite number"
            first = self._first.get(name)
            if first is not None and value > _FACTOR * first[1]:
                return f"{name} is {value:.4g}, and was {first[1]:.4g} in round {first[0]}"
        return None


def _losses(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The metrics in a row of the ledger that become better by falling; NaN where most workers have no number."""
    medians = row["worker_medians"]
    for name, value in (*row["metrics"].items(), *row["worker_metrics"].items()):
        if Direction.of(name) is Direction.MIN:
            middle = medians.get(name, (value, value))
            yield name, math.nan if middle is None else middle[0]
