"""Who sends, and how much of the aggregator's time, disk and patience each may take."""

from aggregator.senders.admission import Admission, Allowed, Everybody
from aggregator.senders.bases import Bases
from aggregator.senders.both_ways import BothWays
from aggregator.senders.exclusion import Excluding
from aggregator.senders.guard import Guard
from aggregator.senders.on_roster import admission_by
from aggregator.senders.quota import NOBODY, Quota
from aggregator.senders.refusals import Refusals, is_by_its_sender
from aggregator.senders.suspicion import SUSPECT_AFTER, suspected

__all__ = [
    "NOBODY",
    "SUSPECT_AFTER",
    "Admission",
    "Allowed",
    "Bases",
    "BothWays",
    "Everybody",
    "Excluding",
    "Guard",
    "Quota",
    "Refusals",
    "admission_by",
    "is_by_its_sender",
    "suspected",
]
