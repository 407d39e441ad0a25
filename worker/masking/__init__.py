"""Updates that nobody sees alone: integers with masks over them, and the masks' seeds sealed to keepers."""

from worker.masking.cover import covered, sealed_seeds
from worker.masking.extras import extras_of
from worker.masking.objections import misfit_of_masking
from worker.masking.summand import CannotBeSummed, summand_of

__all__ = ["CannotBeSummed", "covered", "extras_of", "misfit_of_masking", "sealed_seeds", "summand_of"]
