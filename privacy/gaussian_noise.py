"""Gaussian noise for a sum of integers: whole numbers, from a key that belongs to one sum and to no other.

For a sum x of integers, x + rint(N) = rint(x + N): what is published is the Gaussian mechanism's output, rounded, and
rounding gives nothing more away. No float is ever added to data, so what Mironov (2012) reads from the low bits of
such sums is not there. The numbers come from AES-256 in counter mode, not from a generator made for simulations.

N itself has only the 53 bits of a float64: where sigma is 2^s, rint of one draw is even too often, by about 2^(s-53) of
all cases, which says something of x, little by little over many coordinates. So N is two draws, a coarse one and a fine
one of at most 2^22 steps: what is uneven in one is smoothed by the other, and what remains is below 2^-30.
"""

import hashlib
import hmac
import math

import numpy as np
from numpy.typing import NDArray

from privacy.keystream import KEY_BYTES, words
from privacy.normals import normals_of

LEAST_SIGMA, MOST_SIGMA = 2.0**10, 2.0**44
"""In steps of the grid: below, one would notice the steps; above, that a float64 has 53 bits."""
MOST_SIGMA_IN_HALVES = 2.0**27
"""In integers of 32 bits: a draw reaches 8.57 times that."""
_FINE_SIGMA = 2.0**22
_BLOCK = 2**14
_ROUND_BYTES = 8


def release_key(secret: bytes, *, run_id: str, round_number: int, digest: bytes) -> bytes:
    """The key of the noise for one sum: HMAC-SHA256 by a secret of 32 bytes of what run, round and sum it is.

    ``digest`` is 32 bytes that name the committed sum, or the set that it is of. The same sum gets the same noise when
    a round is done again, and another sum gets another: noise that two sums had in common would fall out of their
    difference. What is hashed is the run's id in UTF-8, a zero byte, the round as 8 bytes little-endian, the digest.
    """
    if len(secret) != KEY_BYTES or len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"secret and digest have 32 bytes each, not {len(secret)} and {len(digest)}")
    if not run_id or "\0" in run_id:
        raise ValueError(f"{run_id!r} is no run's id")
    message = run_id.encode() + b"\0" + round_number.to_bytes(_ROUND_BYTES, "little") + digest
    return hmac.digest(secret, message, "sha256")


def count_draw(secret: bytes, *, run_id: str, round_number: int, digest: bytes, sigma: float) -> int:
    """The noise on one number that is released beside a sum: one draw, of a key of its own that belongs to that sum."""
    key = release_key(secret, run_id=f"{run_id}/within", round_number=round_number, digest=digest)
    return int(GaussianNoise(key, sigma).at(0, 1)[0])


class GaussianNoise:
    """Integers of the distribution rint(Gauss(0, sigma^2)), one for each coordinate, independent of each other.

    Coordinate i is a function of key, sigma and i, to the bit: not of the piece in which it is made, nor of machine or
    library. ``sigma`` is the standard deviation in steps of the grid, noise multiplier * clip / step; one that is too
    small or too large for what is said above is a ValueError.
    """

    def __init__(self, key: bytes, sigma: float) -> None:
        if not LEAST_SIGMA <= sigma <= MOST_SIGMA:
            raise ValueError(
                f"noise of {sigma:.4g} steps of the grid; it must be from 2^10 to 2^44 of them:"
                " take a larger or smaller clip or noise multiplier"
            )
        self._key = key
        self._fine = min(_FINE_SIGMA, sigma / 2)
        self._coarse = math.sqrt((sigma - self._fine) * (sigma + self._fine))

    def at(self, start: int, count: int) -> NDArray[np.int64]:
        """Those of coordinates ``start`` to ``start + count`` (without it). Memory: 8 bytes a coordinate, and 2 MiB."""
        first, last = start // _BLOCK, -(-(start + count) // _BLOCK)
        out = np.empty((last - first) * _BLOCK, dtype=np.int64)
        for index in range(first, last):
            out[(index - first) * _BLOCK :][:_BLOCK] = self._block(index)
        return out[start - first * _BLOCK :][:count]

    def _block(self, index: int) -> NDArray[np.int64]:
        coarse, fine = normals_of(words(self._key, 2 * index * _BLOCK, 2 * _BLOCK)).reshape(2, _BLOCK)
        return (np.rint(coarse * self._coarse) + np.rint(fine * self._fine)).astype(np.int64)
