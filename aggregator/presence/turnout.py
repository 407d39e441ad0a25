"""Who takes part in the open round, and how many of them are there."""

import functools
from collections.abc import Collection, Sequence

from aggregator.presence.attendance import Attendance
from aggregator.presence.sample import Sample, next_draw
from broker.wire import Draw


def is_chosen(worker: str, draws: Sequence[Draw], *, seed: int, round_number: int) -> bool:
    """Whether a worker is chosen by any of a round's draws; without one, everybody is.

    Who was chosen by a draw that another one replaced may have trained meanwhile, and counts.
    """
    return not draws or any(draw.chooses(worker, seed=seed, round_number=round_number) for draw in draws)


@functools.lru_cache(maxsize=1)
def _num_chosen(workers: tuple[str, ...], draws: tuple[Draw, ...], seed: int, round_number: int) -> int:
    """How many of these are chosen; kept, since both who opens a round and who counts in it ask."""
    return sum(is_chosen(each, draws, seed=seed, round_number=round_number) for each in workers)


class Turnout:
    """Those of one round. ``everybody``: the names of all workers, where they are known and always there.

    Otherwise signs of life tell who is there.
    """

    def __init__(
        self,
        attendance: Attendance,
        *,
        seed: int,
        round_number: int,
        draws: Sequence[Draw],
        everybody: Collection[str] | None = None,
    ) -> None:
        self._attendance, self._everybody = attendance, everybody
        self._seed, self._round = seed, round_number
        self.follow(draws)

    def follow(self, draws: Sequence[Draw]) -> None:
        """Has it go by these draws."""
        self.draws = tuple(draws)
        self.num_always: int | None = None
        """How many take part, where that is known and stays so."""
        if self.is_sampled and self._everybody is not None:
            self.num_always = _num_chosen(tuple(self._everybody), self.draws, self._seed, self._round)
        elif self.is_sampled:
            self._attendance.choose(self.chooses)

    @property
    def is_sampled(self) -> bool:
        """Whether not everybody takes part."""
        return bool(self.draws)

    def chooses(self, worker: str) -> bool:
        """Whether this worker takes part in the round."""
        return is_chosen(worker, self.draws, seed=self._seed, round_number=self._round)

    def num_chosen(self, *, now: float) -> int:
        """How many of those that are there take part."""
        if not self.is_sampled:
            return self._attendance.num_present(now=now)
        return self._attendance.num_chosen(now=now) if self.num_always is None else self.num_always

    def next_draw(self, sample: Sample, *, now: float) -> Draw | None:
        """The draw in place of the last one, if that chose nobody who is there; None if it stands.

        Nobody is chosen anew before those that are there have had time to say so.
        """
        if not self.is_sampled or self._everybody is not None or self.num_chosen(now=now):
            return None
        if not self._attendance.is_known(now=now):
            return None
        last, names = self.draws[-1], self._attendance.names()
        return next_draw(sample, names, seed=self._seed, round_number=self._round, after=last)

    def draws_at(self, *, now: float) -> float | None:
        """When ``next_draw`` may have one, if no sign of life comes before; None: not by time alone."""
        if not self.is_sampled or self._everybody is not None or self.num_chosen(now=now):
            return None
        return self._attendance.known_at(now=now)


def first_draws(
    sample: Sample | None,
    attendance: Attendance,
    *,
    seed: int,
    round_number: int,
    now: float,
    everybody: Collection[str] | None = None,
) -> tuple[tuple[Draw, ...], int]:
    """The draws that a round opens with (one; none if all take part), and how many of those there they choose."""
    if sample is None:
        return (), 0
    present = attendance.names() if everybody is None else everybody
    known = present if everybody is not None or attendance.is_known(now=now) else ()
    draws = (next_draw(sample, known, seed=seed, round_number=round_number),)
    return draws, _num_chosen(tuple(present), draws, seed, round_number)
