"""One site: its data stay here, its updates travel. `fl-worker` is in cli.py.

From Python: a ``Worker`` on any transport, with its settings and events.
"""

from worker import events
from worker.carried import OnDisk
from worker.service import Worker
from worker.settings import WorkerSettings
from worker.trainer import Trainer, derived_seed

__all__ = ["OnDisk", "Trainer", "Worker", "WorkerSettings", "derived_seed", "events"]
