"""One site: its data stay here, its updates travel. `fl-worker` is in cli.py.

From Python: a ``Worker`` with its ``WorkerConfig``, on any transport, and its events.
"""

from worker import events
from worker.config import WorkerConfig
from worker.joining import joined, named
from worker.rounds import NoUpdate, Trainer, derived_seed, new_model, plan_of
from worker.service import Worker
from worker.settings import WorkerSettings
from worker.state import OnDisk, OwnNoise

__all__ = [
    "NoUpdate",
    "OnDisk",
    "OwnNoise",
    "Trainer",
    "Worker",
    "WorkerConfig",
    "WorkerSettings",
    "derived_seed",
    "events",
    "joined",
    "named",
    "new_model",
    "plan_of",
]
