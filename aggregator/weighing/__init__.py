"""How much each update counts: a rule, and its limits. Pure, and the same at the root and at partial aggregators."""

from aggregator.weighing.limits import WeightLimits
from aggregator.weighing.normalized import Normalized
from aggregator.weighing.weigher import Weigher
from aggregator.weighing.weighting import Claim, Divisors, Uniform, Weight, Weighting, discount

__all__ = ["Claim", "Divisors", "Normalized", "Uniform", "Weigher", "Weight", "WeightLimits", "Weighting", "discount"]
