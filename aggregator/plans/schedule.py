"""A value that follows from the round: the same for the same round, however long the run is and whatever came before.

    cosine:START:END:HORIZON   from START in round 1 to END in round HORIZON along half a cosine (Loshchilov & Hutter
                               2017, eq. 5, without restarts), END from then on
    linear:START:END:HORIZON   the same along a straight line
    step:FACTOR@ROUND,ROUND    times FACTOR from each of these rounds on
    warmup:N                   times 1/N in round 1, 2/N in round 2, … and 1 from round N on

``+`` combines: ``warmup:5+cosine:0.05:0.001:100``. A cosine or a line says what the value is, and there is at most one;
without one it is the setting's own. The others are factors on it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_MOST_ROUNDS = 2**31 - 1
_DIGITS = 12
"""Significant ones of a value: the last bits of a cosine are not the same on all machines."""
_EXPECTED = "expected cosine:START:END:HORIZON, linear:START:END:HORIZON, step:FACTOR@ROUND,… or warmup:ROUNDS"


@dataclass(frozen=True, slots=True)
class Linear:
    """A straight line from ``start`` in round 1 to ``end`` in round ``horizon``."""

    start: float
    end: float
    horizon: int

    @property
    def ends(self) -> tuple[float, float]:
        return self.start, self.end

    def at(self, number: int) -> float:
        if number <= 1:
            return self.start
        if number >= self.horizon:
            return self.end
        return self.start + (self.end - self.start) * self._share((number - 1) / (self.horizon - 1))

    def _share(self, of_rounds: float) -> float:
        """How far it has come after this share of its rounds."""
        return of_rounds


@dataclass(frozen=True, slots=True)
class Cosine(Linear):
    """Half a cosine in place of the line."""

    def _share(self, of_rounds: float) -> float:
        return (1 - math.cos(math.pi * of_rounds)) / 2


@dataclass(frozen=True, slots=True)
class Step:
    """``factor`` once more from each of ``rounds`` on."""

    factor: float
    rounds: tuple[int, ...]

    @property
    def ends(self) -> tuple[float, float]:
        return 1.0, self.at(self.rounds[-1])

    def at(self, number: int) -> float:
        return math.prod(self.factor for each in self.rounds if each <= number)


@dataclass(frozen=True, slots=True)
class Warmup:
    """Evenly up to 1 in round ``rounds``."""

    rounds: int

    @property
    def ends(self) -> tuple[float, float]:
        return self.at(1), 1.0

    def at(self, number: int) -> float:
        return min(max(1, number), self.rounds) / self.rounds


@dataclass(frozen=True, slots=True)
class Schedule:
    """The value of a setting in each round. ``ends`` of a part: all its values lie between these two."""

    text: str
    """As it was written."""
    curve: Linear | None
    """None: the value is the setting's own, times the factors."""
    factors: tuple[Step | Warmup, ...]

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """From what is at the top of this file. Anything else is a ValueError."""
        parts = [_part(part.strip()) for part in text.split("+")]
        curves = [part for part in parts if isinstance(part, Linear)]
        factors = [part for part in parts if isinstance(part, Step | Warmup)]
        if len(curves) > 1:
            raise ValueError(f"{text}: a value follows one cosine or line; the others can be step and warmup")
        if len({type(part) for part in factors}) < len(factors):
            raise ValueError(f"{text}: step and warmup can be there once each; one step takes several rounds")
        return cls("+".join(part.strip() for part in text.split("+")), curves[0] if curves else None, tuple(factors))

    def __str__(self) -> str:
        return self.text

    def value(self, number: int, own: float) -> float:
        """The value in round ``number``, counted from 1, of a setting that is ``own`` without a schedule."""
        value = own if self.curve is None else self.curve.at(number)
        for factor in self.factors:
            value *= factor.at(number)
        return float(f"{value:.{_DIGITS}g}")

    @property
    def is_whole(self) -> bool:
        """Whether its curve goes from one whole number to another."""
        return self.curve is not None and all(end == int(end) for end in self.curve.ends)

    def bounds(self, own: float) -> tuple[float, float]:
        """All its values lie between these two."""
        ends = (own, own) if self.curve is None else self.curve.ends
        low, high = min(ends), max(ends)
        for factor in self.factors:
            low, high = low * min(factor.ends), high * max(factor.ends)
        return low, high


def _part(text: str) -> Cosine | Linear | Step | Warmup:
    name, _, rest = text.partition(":")
    words = rest.split(":")
    match name:
        case "cosine" | "linear" if len(words) == 3:
            kind = Cosine if name == "cosine" else Linear
            start, end = _numbers(words[:2], text)
            return kind(start, end, _rounds(words[2], text, least=2))
        case "step" if len(words) == 1 and "@" in rest:
            factor, _, rounds = rest.partition("@")
            numbers = tuple(_rounds(word, text, least=2) for word in rounds.split(","))
            if any(later <= earlier for earlier, later in pairwise(numbers)):
                raise ValueError(f"{text}: the rounds of a step go up, as in step:0.5@10,20")
            (value,) = _numbers([factor], text)
            if value <= 0:
                raise ValueError(f"{text}: the factor of a step is above 0")
            return Step(value, numbers)
        case "warmup" if len(words) == 1:
            return Warmup(_rounds(rest, text, least=1))
    raise ValueError(f"{text!r} is no schedule; {_EXPECTED}, and + between several")


def _numbers(words: Sequence[str], text: str) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{text}: {', '.join(words)} should be numbers; {_EXPECTED}") from None
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"{text}: values are finite numbers, and not below 0")
    return numbers


def _rounds(word: str, text: str, *, least: int) -> int:
    if not word.strip().isdecimal() or not least <= int(word) <= _MOST_ROUNDS:
        raise ValueError(f"{text}: {word!r} should be a round, a whole number from {least} on; {_EXPECTED}")
    return int(word)
