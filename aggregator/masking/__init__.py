"""Rounds of masked updates: their sum, and how the masks come off it once the round's set is decided."""

from aggregator.masking.answers import Released, read_answer_of_keeper
from aggregator.masking.ring_sum import Implausible, RingSum
from aggregator.masking.settings import MaskingSettings
from aggregator.masking.site_means import SiteMeans
from aggregator.masking.unmasking import Keepers, Unmasking

__all__ = [
    "Implausible",
    "Keepers",
    "MaskingSettings",
    "Released",
    "RingSum",
    "SiteMeans",
    "Unmasking",
    "read_answer_of_keeper",
]
