"""Who trained when, in the last rounds, along an axis that leaves out the time in which nobody did anything."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from aggregator.history.charts import Figure, Rows
from aggregator.history.natural_order import natural_order

MOST_TIMELINE_UPDATES = 600
_LONG = 3.0
"""Idle for more than so many times what an update usually takes: a pause, which is cut."""
_LEFT = 0.5
"""What a pause still takes on the axis, in the same unit."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Unix time -> seconds on the axis: from ``begin`` on, without the pauses."""

    begin: float
    pauses: tuple[tuple[float, float], ...]
    """(begin, end) of what is cut out, in order."""

    def at(self, moment: float) -> float:
        index = bisect_right(self.pauses, (moment, float("inf")))
        cut = sum(end - begin for begin, end in self.pauses[: max(0, index - 1)])
        if index:
            begin, end = self.pauses[index - 1]
            cut += min(moment, end) - begin
        return moment - self.begin - cut


def timeline(rounds: Rows, updates: Iterable[Mapping[str, Any]]) -> Figure:
    """Who trained when, who waited, what closed each round. ``updates`` are those decided in these rounds.

    A bar is [lane, begin of training, its end, arrival at the aggregator, round, verdict], by the workers' clocks. What
    a worker did before the first round shown was opened is cut off.
    """
    timed = [update for update in updates if update.get("train_s") is not None][-MOST_TIMELINE_UPDATES:]
    first = min((update["round"] for update in timed), default=0)
    shown = [row for row in rounds if row["round"] >= first and row.get("closed_at")]
    axis = _axis(shown, timed)
    lanes = sorted({update["worker"] for update in timed}, key=natural_order)
    lane_of = {name: number for number, name in enumerate(lanes)}
    bars = [[lane_of[each["worker"]], *_places(each, axis), each["round"], each["verdict"]] for each in timed]
    ends = [[round(axis.at(row["closed_at"]), 4), row["round"], row["closed_by"], row["closed_at"]] for row in shown]
    return {
        "kind": "timeline",
        "lanes": [name or "unknown" for name in lanes],
        "bars": bars,
        "ends": ends,
        "pauses": [[round(axis.at(begin), 4), round(axis.at(end), 4), end - begin] for begin, end in axis.pauses],
        "length": max([0.0, *(bar[3] for bar in bars), *(end[0] for end in ends)]),
    }


def _places(update: Mapping[str, Any], axis: Axis) -> list[float]:
    return [round(axis.at(moment), 4) for moment in _moments(update, axis.begin)]


def _moments(update: Mapping[str, Any], begin: float) -> tuple[float, float, float]:
    """When an update's training began and ended, and when it arrived."""
    arrived = update["received_at"]
    trained = arrived - (update["queue_s"] or 0.0)
    return max(begin, trained - update["train_s"]), max(begin, trained), max(begin, arrived)


def _axis(rounds: Rows, updates: Sequence[Mapping[str, Any]]) -> Axis:
    if not updates:
        return Axis(min((row["opened_at"] for row in rounds), default=0.0), ())
    opened = [row["opened_at"] for row in rounds if "opened_at" in row]
    earliest = min(_moments(update, 0.0)[0] for update in updates)
    begin = max(earliest, min(opened)) if opened else earliest
    busy = sorted(_moments(update, begin)[:2] for update in updates)
    busy = sorted([*busy, *((row["closed_at"], row["closed_at"]) for row in rounds if row["closed_at"] >= begin)])
    usual = median(update["train_s"] + (update["queue_s"] or 0.0) for update in updates)
    return Axis(begin, tuple(_pauses(busy, longest=_LONG * usual, kept=_LEFT * usual)))


def _pauses(busy: Sequence[tuple[float, float]], *, longest: float, kept: float) -> Iterable[tuple[float, float]]:
    """What is cut out of the gaps between these intervals, which are in the order of their beginnings."""
    until = busy[0][1]
    for begin, end in busy[1:]:
        if begin - until > longest:
            yield until + kept / 2, begin - kept / 2
        until = max(until, end)
