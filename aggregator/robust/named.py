"""The rule that a run goes by, as people write it: ``--robust krum:f=2,m=6``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aggregator.robust.bulyan import Bulyan
from aggregator.robust.geometric_median import GeometricMedian
from aggregator.robust.krum import Krum
from aggregator.robust.median import Median
from aggregator.robust.rule import Rule
from aggregator.robust.trimmed import Trimmed
from console import parse_named, text_of_named

_NONE = "none"
_KINDS: Mapping[str, type[Any]] = {
    "median": Median,
    "trimmed": Trimmed,
    "krum": Krum,
    "bulyan": Bulyan,
    "geometric-median": GeometricMedian,
}


@dataclass(frozen=True, slots=True)
class Robust:
    """A robust rule, or None for the mean."""

    rule: Rule | None = None

    @classmethod
    def parse(cls, text: str) -> "Robust":
        """``none``, or a rule with its parameters. Anything else is a ValueError."""
        return cls() if text.strip() == _NONE else cls(parse_named(text, _KINDS, unnamed={"trimmed": "share"}))

    @property
    def fewest(self) -> int:
        """The fewest updates that a round needs because of it."""
        return 1 if self.rule is None else self.rule.fewest

    def __str__(self) -> str:
        return _NONE if self.rule is None else text_of_named(self.rule, _KINDS)
