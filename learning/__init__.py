"""Local learning: what a task is, how one is loaded, and the common case of supervised training.

Pure: tensors in, tensors out. Nothing here knows a queue, a message or a clock.
"""

from learning.loading import at_site, load_task
from learning.split import Split
from learning.supervised import Supervised
from learning.task import Plan, Site, Task

__all__ = ["Plan", "Site", "Split", "Supervised", "Task", "at_site", "load_task"]
