"""How many of the workers take part in a round (``--sample``), and the draws that choose them. Pure.

A share chooses each worker by itself: who is present changes nothing. A count chooses among the workers that are there
when the round opens, those with the lowest places.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from itertools import count
from typing import Self

from broker.wire import Draw, place_of, threshold_of_count, threshold_of_share

LEAST_SHARE = 1e-4
"""Of a smaller one, it could take long to find a draw that chooses anybody."""
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """A share of the workers, or a count of them, of which ``over`` times as many are asked."""

    share: float | None = None
    enough: int | None = None
    """For a count: how many updates are waited for at most."""
    over: float = 1.0
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """``0.1`` and ``10%`` are shares, ``10`` is a count, ``10x1.3`` asks 13 for 10. Anything else: a ValueError."""
        try:
            if "x" in text:
                number, over = text.split("x")
                return cls._of_count(int(number), float(over), text)
            if text.endswith("%"):
                return cls._of_share(float(text[:-1]) / 100, text)
            return cls._of_share(float(text), text) if "." in text or "e" in text else cls._of_count(int(text), 1, text)
        except ValueError:
            raise ValueError(
                f"expected a share of the workers from {LEAST_SHARE:g} to 1.0, such as 0.1 or 10%, a count such as 10,"
                " or 10x1.3 to ask 13 and wait for 10"
            ) from None

    @classmethod
    def _of_share(cls, share: float, text: str) -> Self:
        if not LEAST_SHARE <= share <= 1:
            raise ValueError(share)
        return cls(share=share, text=text)

    @classmethod
    def _of_count(cls, number: int, over: float, text: str) -> Self:
        if not (number >= 1 and 1 <= over <= 100 and number * over <= _MOST):
            raise ValueError(number)
        return cls(enough=number, over=over, text=text)

    def __str__(self) -> str:
        return self.text

    @property
    def num_asked(self) -> int | None:
        """For a count: how many are chosen, if so many are there."""
        return None if self.enough is None else math.ceil(round(self.enough * self.over, 9))

    def target_among(self, num_chosen: int) -> int:
        """Of so many that are chosen, how many are waited for."""
        return num_chosen if self.enough is None else min(num_chosen, self.enough)


def next_draw(
    sample: Sample, present: Collection[str], *, seed: int, round_number: int, after: Draw | None = None
) -> Draw:
    """The draw of a round, which chooses at least one of those ``present``; ``after``: in place of this one.

    If it is not known who is there, a share draws all the same; a count waits, with a draw of nobody.
    """
    first = 1 if after is None else after.number + 1
    if sample.num_asked is not None:
        places = (place_of(worker, seed=seed, round_number=round_number, draw=first) for worker in present)
        threshold = threshold_of_count(places, sample.num_asked)
        return Draw(number=first if threshold else 0, threshold=threshold)
    draws = (Draw(number=number, threshold=threshold_of_share(sample.share or 1.0)) for number in count(first))
    if not present:
        return next(draws)
    return next(
        draw for draw in draws if any(draw.chooses(each, seed=seed, round_number=round_number) for each in present)
    )
