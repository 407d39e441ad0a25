"""Opening a run: which run it is, and all that stays the same until it ends."""

from aggregator.opening.broadcast import Broadcaster, Staged
from aggregator.opening.evaluation import CentralEvaluation
from aggregator.opening.on_stream import newest_head
from aggregator.opening.opening import OpenedRun, opened

__all__ = ["Broadcaster", "CentralEvaluation", "OpenedRun", "Staged", "newest_head", "opened"]
