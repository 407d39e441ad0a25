"""All that can be set of an aggregator, and of a run, whoever leads it."""

from aggregator.settings.aggregator_settings import AggregatorSettings
from aggregator.settings.closing import QuorumAsText
from aggregator.settings.run_settings import RunSettings
from aggregator.settings.shard import Shard

__all__ = ["AggregatorSettings", "QuorumAsText", "RunSettings", "Shard"]
