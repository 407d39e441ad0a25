"""What a run with this noise will give away, and what the noise will leave of its updates."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from privacy.accountant import charge_of, epsilon_of, noise_for
from privacy.budget import UNIT, UNIT_REPLACED, spoken

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """``workers`` and ``parameters`` are known together, or neither is."""

    noise: float
    rounds: int
    delta: float
    spent_mu2: float = 0.0
    workers: int | None = None
    parameters: int | None = None

    @classmethod
    def within(cls, epsilon: float, *, rounds: int, delta: float, spent_mu2: float = 0.0, **size: int | None) -> Self:
        """With the least noise that keeps within epsilon, rounded up as it is printed: who copies it keeps within it.

        A ValueError where none does.
        """
        noise = _rounded_up(noise_for(epsilon, delta, rounds, spent_mu2=spent_mu2))
        return cls(noise, rounds, delta, spent_mu2, **size)

    @property
    def mu2(self) -> float:
        return math.fsum([self.spent_mu2, self.rounds * charge_of(self.noise)])

    @property
    def epsilon(self) -> float:
        return epsilon_of(self.delta, math.sqrt(self.mu2))

    @property
    def epsilon_replaced(self) -> float:
        return epsilon_of(self.delta, 2 * math.sqrt(self.mu2))

    @property
    def noise_to_signal(self) -> float | None:
        """Norm of the noise on the mean, z sqrt(d) / n, in units of the clip: the longest that the mean can be."""
        if self.workers is None or self.parameters is None:
            return None
        return self.noise * math.sqrt(self.parameters) / self.workers

    def lines(self) -> Iterator[tuple[str, str]]:
        """For people: a name and a text a line."""
        yield "epsilon", self._spoken(self.epsilon, UNIT)
        yield "", self._spoken(self.epsilon_replaced, UNIT_REPLACED)
        yield "noise", f"{self.noise:.10g} times the clip, on each coordinate of each round's sum"
        yield from self._of_signal()
        yield "mu^2", f"{self.mu2}: what the next run on the same data is given as --dp-spent"

    def as_json(self) -> dict[str, Any]:
        """All figures, in full, with what they mean."""
        ratio = self.noise_to_signal
        return {
            "noise": self.noise,
            "rounds": self.rounds,
            "delta": self.delta,
            "epsilon": self.epsilon,
            "unit": UNIT,
            "epsilon_replaced": self.epsilon_replaced,
            "unit_replaced": UNIT_REPLACED,
            "mu2": self.mu2,
            "dp_spent": self.spent_mu2,
            "workers": self.workers,
            "parameters": self.parameters,
            "noise_to_signal": ratio,
            "is_drowned": None if ratio is None else ratio > 1,
        }

    def _spoken(self, epsilon: float, unit: str) -> str:
        said = spoken(epsilon, self.delta, self.rounds, spent_mu2=self.spent_mu2, unit=unit, digits=_DIGITS)
        return said.removeprefix("epsilon ")

    def _of_signal(self) -> Iterator[tuple[str, str]]:
        ratio = self.noise_to_signal
        if ratio is None or self.workers is None:
            return
        yield "ratio", f"the noise on the mean is {ratio:.3g} times as long as a mean of clipped updates can be"
        if ratio > 1:
            needed = math.ceil(self.noise * math.sqrt(self.parameters or 0))
            yield (
                "",
                f"it drowns them: this run will learn nothing. It takes {needed} workers, or fewer shared parameters"
                " (--shared), or privacy for records in place of workers (DP-SGD in the task)",
            )
        if self.delta * self.workers >= 1:
            yield "delta", f"{self.delta:g} is no less than one in {self.workers} workers: it may cost one of them all"


def _rounded_up(noise: float) -> float:
    rounded = math.ceil(noise * 1e4) / 1e4
    return rounded if rounded >= noise else rounded + 1e-4
