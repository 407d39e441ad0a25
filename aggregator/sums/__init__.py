"""Runs that are summed up, not trained: exact totals of what sites give, and the model that the task makes of them."""

from aggregator.sums.summing import Summing, for_summing, specs_of_updates, summing_of
from aggregator.sums.totals import Totals

__all__ = ["Summing", "Totals", "for_summing", "specs_of_updates", "summing_of"]
