"""Masks: what makes an update look like noise to everybody who does not know its seed.

A mask is the keystream of AES-256 in counter mode, its key the seed and its counter from 0, laid over all of an
update's bytes, and read there as little-endian integers of the size that lies below it: first those of 64 bits, then
those of 32. It is added modulo 2^64, and modulo 2^32. So masked updates add up in any order, and the sum of their masks
takes off at once what all of them put on: nobody needs a single one.

A seed serves one body. Two bodies under one seed have their difference in clear.
"""

import secrets
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import CipherContext
from numpy.typing import NDArray

from privacy.keystream import BLOCK_BYTES, stream_from

SEED_BYTES = 32
_PIECE_BYTES = 2**17
"""Made at a time: it stays in the cache."""
_ZEROS = bytes(_PIECE_BYTES)
_INTEGERS = (np.dtype("<u8"), np.dtype("<u4"))


def fresh_seed() -> bytes:
    """The seed of one mask for one body, from the operating system's randomness."""
    return secrets.token_bytes(SEED_BYTES)


class Mask:
    """The mask of one seed. Going on where it left off costs nothing extra; any other place can be had as well."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        self._seed = seed
        self._stream: CipherContext | None = None
        self._next = 0
        """The byte of the keystream that comes next out of ``_stream``."""
        self._piece = bytearray(_PIECE_BYTES + BLOCK_BYTES - 1)  # update_into asks for some room to spare

    def add_to(self, integers: NDArray[Any], offset: int) -> None:
        """Adds to these integers, in place, those of the mask that lie over them.

        ``integers`` are uint64 or uint32, contiguous, little-endian; the first begins at byte ``offset`` of the body.
        """
        if integers.dtype not in _INTEGERS:
            raise ValueError(f"a mask is added to uint64 or uint32, not to {integers.dtype}")
        size = _PIECE_BYTES // integers.itemsize
        for start in range(0, len(integers), size):
            some = integers[start : start + size]
            some += self._at(offset + start * integers.itemsize, some.nbytes).view(integers.dtype)

    def _at(self, offset: int, num_bytes: int) -> NDArray[np.uint8]:
        """At most a piece of the keystream; good until the next is asked for."""
        if self._stream is None or offset != self._next:
            self._stream = stream_from(self._seed, offset)
        self._stream.update_into(memoryview(_ZEROS)[:num_bytes], self._piece)
        self._next = offset + num_bytes
        return np.frombuffer(self._piece, np.uint8, num_bytes)
