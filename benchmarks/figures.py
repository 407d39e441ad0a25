"""The result of a measurement: figures with their spread, and one table row for each system measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

MB = 10**6


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    lowest: float
    highest: float
    num: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the processes of one run used, by role: aggregator, worker, broker."""

    cpu_s: Mapping[str, float] = field(default_factory=dict)
    """User and system CPU seconds of one process in one round."""
    peak_mb: Mapping[str, float] = field(default_factory=dict)
    """The most memory that the largest process of this role held."""
    tree_mb: Mapping[str, float] = field(default_factory=dict)
    """The most memory that all processes of this role held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One system under one workload."""

    workload: str
    system: str
    unit: str = "s"
    value: Spread | None = None
    """None if it could not be measured; the note says why."""
    mb_per_s: float | None = None
    """Effective: the bytes of all models and updates of a round over its seconds."""
    usage: Usage = Usage()
    note: str = ""
    is_more_better: bool = False

    def ratio(self, ours: "Row | None") -> float | None:
        """How many times better fedmq does: above 1, fedmq is ahead."""
        if self.value is None or ours is None or ours.value is None or ours.unit != self.unit:
            return None
        theirs, own = self.value.median, ours.value.median
        return own / theirs if self.is_more_better else theirs / own

    def as_json(self, ours: "Row | None") -> dict[str, Any]:
        return asdict(self) | {"ratio_to_fedmq": self.ratio(ours)}


FEDMQ = "fedmq"


def ours_among(rows: Sequence[Row], workload: str) -> Row | None:
    """fedmq's row for this workload, which the others are compared with."""
    return next((row for row in rows if row.workload == workload and row.system == FEDMQ), None)
