"""Which models stay on the disk."""

from collections.abc import Iterable, Mapping
from typing import Any

from aggregator.state.checkpoint import StateDirectory
from aggregator.state.early_stop import Aim, best_round
from aggregator.state.ledger import Ledger
from learning import IN_TRAINING, USUAL_METRICS

_OF_MODELS = tuple(name for name in USUAL_METRICS if not name.startswith(IN_TRAINING))


def best_of(rounds: Iterable[Mapping[str, Any]], aim: Aim) -> tuple[str, int, float] | None:
    """(metric, round, value) of the best round: by the run's metric, or else by the first usual metric present.

    Of what workers measured, by their median or weighted mean, as the aim says.
    """
    rows = list(rounds)
    for name in (aim.metric,) if aim.metric else _OF_MODELS:
        best = best_round(rows, name, aim.direction_of(name), by=aim.best_by)
        if best is not None:
            return (name, *best)
    return None


def rounds_to_keep(last: int, best: int | None, *, keep_every: int) -> set[int]:
    """The last model and the one before it, the best one, and every ``keep_every``-th."""
    keep = {last, last - 1} | ({best} if best is not None else set())
    return keep | (set(range(0, last + 1, keep_every)) if keep_every else set())


class Retention:
    """Keeps the models of a run that should stay, and the links to the last and the best. Knows the best so far."""

    def __init__(self, directory: StateDirectory, ledger: Ledger, *, aim: Aim, keep_every: int) -> None:
        self._directory, self._ledger, self._aim, self._keep_every = directory, ledger, aim, keep_every
        best = best_of(ledger.rounds(), aim)
        self._best = None if best is None else best[1]

    def keep(self, last: int) -> None:
        """Removes the models that need not stay now that round ``last`` is closed."""
        before = max(last - 1, self._ledger.base_round() + 1)  # the sites have measured it since
        candidates = {last, min(last, before)}
        if self._best is not None:
            candidates.add(self._best)
        best = best_of([self._ledger.round(number) for number in sorted(candidates)], self._aim)
        self._best = None if best is None else best[1]
        kept = rounds_to_keep(last, best[1] if best else None, keep_every=self._keep_every)
        with self._ledger.transaction():  # only while no other aggregator has taken over
            self._directory.link("last", last)
            if best is not None and self._directory.model_path(best[1]).exists():
                self._directory.link("best", best[1])  # with another --stop-metric, it may be one that was not kept
            self._directory.keep_only(kept)
