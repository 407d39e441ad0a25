"""``fl-aggregator`` with the toys that TOYS names in place of what is fedmq's own; see toys.py."""

import os
from collections.abc import Sequence

from toys import with_toys

from aggregator import cli
from aggregator.config import AggregatorConfig
from aggregator.settings import AggregatorSettings


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    own = AggregatorSettings.config.fget
    assert own is not None

    def config(settings: AggregatorSettings) -> AggregatorConfig:
        return with_toys(own(settings), *os.environ["TOYS"].split())

    AggregatorSettings.config = property(config)  # type: ignore[method-assign]
    return cli.main(argv)
