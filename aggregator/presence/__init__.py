"""Who is there: what signs of life tell of workers."""

from aggregator.presence.attendance import Attendance
from aggregator.presence.conflicts import NameConflicts
from aggregator.presence.pace import asked_every_s
from aggregator.presence.present import Present
from aggregator.presence.sample import Sample
from aggregator.presence.signs_of_life import SignsOfLife
from aggregator.presence.turnout import Turnout, first_draws, is_chosen
from aggregator.presence.uploads import PartialUploads, Uploads

__all__ = [
    "Attendance",
    "NameConflicts",
    "PartialUploads",
    "Present",
    "Sample",
    "SignsOfLife",
    "Turnout",
    "Uploads",
    "asked_every_s",
    "first_draws",
    "is_chosen",
]
