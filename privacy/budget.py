"""A privacy budget as a value: how much may be given away, what has been, and how many releases that leaves."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from privacy.accountant import charge_of, check_delta, epsilon_of, mu2_of_counted, mu_within

UNIT = "one worker, zeroed out or not"
"""Whom epsilon speaks of, and which two data sets it compares."""
UNIT_REPLACED = "one worker, replaced by any other"
"""The same unit, with the other notion of neighbours: twice the sensitivity, so twice mu."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Every sum is of what was clipped to ``clip``, and has noise of ``noise * clip`` on each coordinate.

    ``charges`` has how many releases so far had which noise multiplier; ``spent_mu2`` is the sum of 1/z^2 of earlier
    runs on the same data. A number that makes no sense is a ValueError.
    """

    clip: float
    noise: float
    epsilon: float
    delta: float
    spent_mu2: float = 0.0
    charges: Mapping[float, int] = field(default_factory=dict)
    _most_mu: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.clip < math.inf:
            raise ValueError(f"the clip must be above 0, not {self.clip:g}")
        charge_of(self.noise)
        check_delta(self.delta)
        mu2_of_counted(self.charges, spent_mu2=self.spent_mu2)
        object.__setattr__(self, "_most_mu", mu_within(self.epsilon, self.delta))

    def charged(self, noise: float | None = None) -> Self:
        """The budget after one release more, by default one with its own ``noise``."""
        return replace(self, charges=self._with(1, self.noise if noise is None else noise))

    @property
    def mu2(self) -> float:
        """The sum of 1/z^2 so far, with what was spent before: what the next run on this data begins with."""
        return mu2_of_counted(self.charges, spent_mu2=self.spent_mu2)

    @property
    def num_releases(self) -> int:
        """How many there were so far."""
        return sum(self.charges.values())

    @property
    def epsilon_so_far(self) -> float:
        """Rounded up; 0 while nothing was released."""
        return epsilon_of(self.delta, math.sqrt(self.mu2))

    @property
    def epsilon_replaced_so_far(self) -> float:
        """The same for neighbours in which one worker is another one, rather than zeroed out."""
        return epsilon_of(self.delta, 2 * math.sqrt(self.mu2))

    def may_release_another(self) -> bool:
        """Whether one more release with its noise keeps within ``epsilon``: to be asked before a round opens."""
        return self._holds(1)

    @property
    def releases_left(self) -> int:
        """How many more releases with its noise keep within ``epsilon``."""
        free = self._most_mu * self._most_mu - self.mu2
        releases = max(0, math.floor(free / charge_of(self.noise)))
        while releases and not self._holds(releases):
            releases -= 1
        while self._holds(releases + 1):
            releases += 1
        return releases

    def __str__(self) -> str:
        """One sentence for people, with all without which epsilon says nothing."""
        return spoken(self.epsilon_so_far, self.delta, self.num_releases, spent_mu2=self.spent_mu2)

    def _holds(self, releases: int) -> bool:
        """Whether so many more do."""
        mu2 = mu2_of_counted(self._with(releases, self.noise), spent_mu2=self.spent_mu2)
        return mu2 <= self._most_mu * self._most_mu

    def _with(self, num: int, noise: float) -> Mapping[float, int]:
        """The charges with so many more."""
        return Counter(self.charges) + Counter({noise: num})


def spoken(
    epsilon: float, delta: float, releases: int, *, spent_mu2: float = 0.0, unit: str = UNIT, digits: int = 2
) -> str:
    """``epsilon 6.57 at delta 1e-05 (unit: one worker, zeroed out or not; 50 releases)``."""
    how_many = f"{releases} release{'' if releases == 1 else 's'}"
    before = f", and mu^2 {spent_mu2:g} spent before" if spent_mu2 else ""
    shown = f"{epsilon:.{digits}f}" if epsilon < 1e6 else f"{epsilon:.3g}"
    return f"epsilon {shown} at delta {delta:g} (unit: {unit}; {how_many}{before})"
