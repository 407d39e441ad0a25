"""The worker's half of corrections: what is added to gradients, and what is carried from round to round for it."""

from worker.algorithms.correct import PERSONAL, Terms
from worker.algorithms.correcting import Correcting, correction_of, misfit_of_control, own_model
from worker.algorithms.corrector import Corrector

__all__ = ["PERSONAL", "Correcting", "Corrector", "Terms", "correction_of", "misfit_of_control", "own_model"]
