"""A second implementation of a seam, for tests: a rule over updates kept by themselves that chooses all of them."""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from aggregator.config import AggregatorConfig
from aggregator.robust.rule import Choice, Floats
from aggregator.spool.spool import Spool


@dataclass(frozen=True, slots=True)
class Everything:
    """A rule that looks at distances and then chooses all updates alike: the plain mean, by way of a choice."""

    fewest: ClassVar[int] = 1
    fewest_advised: ClassVar[int] = 1

    def choose(self, distances: Floats) -> Choice:
        return Choice([1.0] * len(distances), [float(each) for each in distances.sum(axis=1)])


def with_toys(config: AggregatorConfig, *names: str) -> AggregatorConfig:
    """The same run, with ``spool`` where updates are kept by themselves and all of them chosen."""
    if "spool" in names:
        return replace(config, new_accumulator=partial(Spool, rule=Everything(), folder=config.state))
    return config
