"""Local learning: what a task is, how one is loaded, and the common case of supervised training.

Pure: tensors in, tensors out. Nothing here knows a queue, a message or a clock.
"""

from learning.evaluation import evaluating
from learning.loading import at_site, has_samples, load_task, object_in_file, prepare
from learning.metrics import (
    AT_SITES,
    IN_TRAINING,
    USUAL_METRICS,
    Direction,
    Measured,
    at_sites,
    bare,
    but_at_sites,
    finite,
    not_finite,
    numbers_of,
    plain,
    rank,
    restored,
)
from learning.optimizers import forget_gradients
from learning.split import Split
from learning.supervised import Supervised
from learning.task import Plan, Site, Task
from learning.user_code import blamed, made_by

__all__ = [
    "AT_SITES",
    "IN_TRAINING",
    "USUAL_METRICS",
    "Direction",
    "Measured",
    "Plan",
    "Site",
    "Split",
    "Supervised",
    "Task",
    "at_site",
    "at_sites",
    "bare",
    "blamed",
    "but_at_sites",
    "evaluating",
    "finite",
    "forget_gradients",
    "has_samples",
    "load_task",
    "made_by",
    "not_finite",
    "numbers_of",
    "object_in_file",
    "plain",
    "prepare",
    "rank",
    "restored",
]
