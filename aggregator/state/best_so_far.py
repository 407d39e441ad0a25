"""The best round so far, for a run that may end on a metric: known without reading all rounds at each close."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from aggregator.state.early_stop import Aim, Best, best_round, without_sites

_LEAST_OPEN = 2
"""Sites measure a model with their next update, and so the last round's row changes once more."""


class Rounds(Protocol):
    """Where the closed rounds are."""

    def rounds(self, *, first: int = 0, last: int | None = None) -> Iterator[Mapping[str, Any]]:
        """Their rows from round ``first`` on, up to round ``last``, in order."""
        ...


class BestSoFar:
    """The same round as all rows together would give.

    Each row is read once; those of the last few rounds again and again, as long as sites may still measure their
    models. Once a site is later than that, twice its delay is allowed for from then on, and all rows are read once
    more.
    """

    def __init__(self, ledger: Rounds) -> None:
        self._ledger = ledger
        self._num_open = _LEAST_OPEN
        self._aim: Aim | None = None
        self._best: Best | None = None
        """Of the rounds before ``_next``."""
        self._next = 0

    def measured(self, rounds: Iterable[int], *, last: int) -> None:
        """Takes note that with the end of round ``last``, sites have measured the models after these rounds."""
        first = min(rounds, default=last)
        if first < self._next:
            self._num_open = max(self._num_open, 2 * (last - first))
            self._aim = None

    def after(self, last: int, aim: Aim) -> Best | None:
        """The best round by the aim's metric, which it has, and its value, once round ``last`` is closed.

        The sites count that have measured the model after it with updates: that of ``last`` is still to be.
        """
        assert aim.metric is not None
        direction = aim.direction_of(aim.metric)
        if aim != self._aim or last < self._next:
            self._aim, self._best, self._next = aim, None, 0
        settled = last - self._num_open
        if settled >= self._next:
            rows = self._ledger.rounds(first=self._next, last=settled)
            self._best, self._next = best_round(rows, aim.metric, direction, known=self._best), settled + 1
        rows = self._ledger.rounds(first=self._next)
        newest = (without_sites(row) if row["round"] == last else row for row in rows)
        return best_round(newest, aim.metric, direction, known=self._best)
