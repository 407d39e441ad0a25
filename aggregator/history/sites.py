"""What each site did and measured, round by round: a map of sites and rounds, and a line a site."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aggregator.history.charts import Figure, Spread

_MARKS = {
    "folded": "f",
    "late": "l",
    "duplicate": "d",
    "refused": "r",
    "diverged": "n",
    "unselected": "u",
    "outvoted": "o",
    "measured": " ",
}
_MEASURING = ("folded", "outvoted", "abandoned", "diverged", "measured")
"""What an update or answer may have become whose metrics count."""
_OTHER = "a"
_URGENCY = " daulrnof"
"""Of several updates that were decided in one round, the mark that comes last here is shown."""
_RANKS = {verdict: _URGENCY.index(mark) for verdict, mark in _MARKS.items()}
_LETTERS = _URGENCY.encode().ljust(256)
_LEVELS = 64
_FIRST_LEVEL = ord("0")
_NONE = " "
_OUTLIERS = 0.02

Decided = tuple[int, int | None, str | None, str, float | None]
"""Round, the round after which there was the model that it is from, worker, verdict, and the metric of that model."""


@dataclass(slots=True)
class Site:
    """The marks and values of one site, one for each round shown."""

    ranks: bytearray
    """The marks, as their places in the order of urgency."""
    values: dict[int, float] = field(default_factory=dict)

    def of(self, better: str) -> dict[str, float] | None:
        """Its newest, best and worst value; None if it measured nothing."""
        if not self.values:
            return None
        best, worst = (max, min) if better == "max" else (min, max)
        values = self.values.values()
        return {"newest": self.values[max(self.values)], "best": best(values), "worst": worst(values)}


def sites_in(decided: Iterable[Decided], names: Sequence[str], *, first: int, last: int) -> dict[str, Site]:
    """The sites of these names, over the rounds from ``first`` to ``last``."""
    sites = {name: Site(bytearray(last - first + 1)) for name in names}
    other = _URGENCY.index(_OTHER)
    for number, model, worker, verdict, value in decided:
        site = sites.get(worker or "")
        if site is None:
            continue
        at, rank = number - first, _RANKS.get(verdict, other)
        if number <= last and rank > site.ranks[at]:
            site.ranks[at] = rank
        if value is None or model is None or verdict not in _MEASURING or not math.isfinite(value):
            continue
        if first <= model <= last:
            site.values[model] = value
    return sites


def spread_of(sites: Mapping[str, Site]) -> Spread:
    """How far apart the sites are in each round that more than one of them measured."""
    found: dict[int, list[float]] = {}
    for site in sites.values():
        for number, value in site.values.items():
            found.setdefault(number, []).append(value)
    return {number: (min(values), max(values)) for number, values in found.items() if len(values) > 1}


def site_map(sites: Mapping[str, Site], *, first: int, last: int, metric: str | None) -> Figure:
    """The map: a letter a round for what became of a site's update, and one for the level of what it measured.

    Levels go from ``0`` for ``low`` to ``o`` for ``high``, and values beyond these two count as them.
    """
    values = sorted(value for site in sites.values() for value in site.values.values())
    cut = int(_OUTLIERS * len(values))
    low, high = (values[cut], values[-1 - cut]) if values else (0.0, 0.0)
    return {
        "kind": "map",
        "first": first,
        "last": last,
        "names": list(sites),
        "marks": [site.ranks.translate(_LETTERS).decode() for site in sites.values()],
        "metric": metric if values else None,
        "low": low,
        "high": high,
        "levels": [_levels(site.values, low, high, first, last) for site in sites.values()] if values else [],
    }


def _levels(values: Mapping[int, float], low: float, high: float, first: int, last: int) -> str:
    scale = (_LEVELS - 1) / (high - low) if high > low else 0.0
    letters = [_NONE] * (last - first + 1)
    for number, value in values.items():
        letters[number - first] = chr(_FIRST_LEVEL + round((min(high, max(low, value)) - low) * scale))
    return "".join(letters)
