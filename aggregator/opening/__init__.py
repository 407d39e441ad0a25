"""Opening a run: which run it is, and all that stays the same until it ends."""

from aggregator.opening.broadcast import Broadcaster, Staged
from aggregator.opening.evaluation import CentralEvaluation
from aggregator.opening.opening import OpenedRun, opened
from aggregator.opening.run import newest_head

__all__ = ["Broadcaster", "CentralEvaluation", "OpenedRun", "Staged", "newest_head", "opened"]
