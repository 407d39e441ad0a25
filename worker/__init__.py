"""One site: its data stay here, its updates travel. `fl-worker` is in cli.py.

From Python: a ``Worker`` on any transport, with its settings and events.
"""

from worker import events
from worker.service import Worker
from worker.settings import WorkerSettings

__all__ = ["Worker", "WorkerSettings", "events"]
