"""One round at one site: the model that is heard of, what is trained, and what is sent in answer."""

from worker.rounds.answering import Answers
from worker.rounds.error_feedback import decoded, norm_of
from worker.rounds.heard import Heard
from worker.rounds.signs_of_life import SignsOfLife
from worker.rounds.trainer import Diverged, NoUpdate, Trained, Trainer, derived_seed, new_model, plan_of

__all__ = [
    "Answers",
    "Diverged",
    "Heard",
    "NoUpdate",
    "SignsOfLife",
    "Trained",
    "Trainer",
    "decoded",
    "derived_seed",
    "new_model",
    "norm_of",
    "plan_of",
]
