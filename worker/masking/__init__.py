"""Updates that nobody sees alone, or not as they are: integers with masks over them, clipped, and noised."""

from worker.masking.clipping import WITHIN
from worker.masking.cover import Covered, sealed_seeds
from worker.masking.objections import misfit_of_masking
from worker.masking.summand import CannotBeSummed
from worker.masking.update import integers_of, limited

__all__ = ["WITHIN", "CannotBeSummed", "Covered", "integers_of", "limited", "misfit_of_masking", "sealed_seeds"]
