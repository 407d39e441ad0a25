"""Who sends, and how much of the aggregator's time, disk and patience each may take."""

from aggregator.senders.admission import Admission, Allowed, Everybody
from aggregator.senders.guard import Guard
from aggregator.senders.quota import Quota
from aggregator.senders.refusals import Refusals

__all__ = ["Admission", "Allowed", "Everybody", "Guard", "Quota", "Refusals"]
