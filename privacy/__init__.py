"""The pure half of privacy: integers in which updates add up, and masks over them; noise, and what it leaves secret.

It knows no federation: numbers and arrays in, numbers and arrays out.
"""

from privacy.accountant import delta_of, epsilon_of, mu2_of, mu_of, noise_for
from privacy.adaptive_clip import AdaptiveClip, count_noise, model_noise, share_within
from privacy.budget import UNIT, Budget, spoken
from privacy.clipping import largest_of, norm_of, scale_to
from privacy.gaussian_noise import LEAST_SIGMA, MOST_SIGMA, MOST_SIGMA_IN_HALVES, GaussianNoise, count_draw, release_key
from privacy.keystream import words
from privacy.masks import SEED_BYTES, Mask, fresh_seed
from privacy.noise_secret import fingerprint_of, noise_secret
from privacy.ring import RING64_STEP, Ring, step_of

__all__ = [
    "LEAST_SIGMA",
    "MOST_SIGMA",
    "MOST_SIGMA_IN_HALVES",
    "RING64_STEP",
    "SEED_BYTES",
    "UNIT",
    "AdaptiveClip",
    "Budget",
    "GaussianNoise",
    "Mask",
    "Ring",
    "count_draw",
    "count_noise",
    "delta_of",
    "epsilon_of",
    "fingerprint_of",
    "fresh_seed",
    "largest_of",
    "model_noise",
    "mu2_of",
    "mu_of",
    "noise_for",
    "noise_secret",
    "norm_of",
    "release_key",
    "scale_to",
    "share_within",
    "spoken",
    "step_of",
    "words",
]
