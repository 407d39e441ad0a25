"""The pure half of privacy: integers in which updates add up, and the masks over them.

It knows no federation: numbers and arrays in, numbers and arrays out.
"""

from privacy.masks import SEED_BYTES, Mask, fresh_seed
from privacy.ring import RING64_STEP, Ring, step_of

__all__ = [
    "RING64_STEP",
    "SEED_BYTES",
    "Mask",
    "Ring",
    "fresh_seed",
    "step_of",
]
