"""Who sends, and how much of the aggregator's time, disk and patience each may take."""

from aggregator.senders.conflicts import NameConflicts
from aggregator.senders.quota import Quota
from aggregator.senders.refusals import Refusals

__all__ = ["NameConflicts", "Quota", "Refusals"]
