"""The bits of a 32-byte key: AES-256 in counter mode from counter 0, read as little-endian words of 64 bits.

Word ``i`` is a function of the key and ``i`` alone, so any stretch of the stream can be made by itself.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

KEY_BYTES = 32
BLOCK_BYTES = 16
"""Of AES."""
_WORD_BYTES = 8


def stream_from(key: bytes, offset: int) -> CipherContext:
    """The stream from a byte on, XORed to what it is given. A key of another length is a ValueError."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    block, skipped = divmod(offset, BLOCK_BYTES)
    stream = Cipher(AES256(key), CTR(block.to_bytes(BLOCK_BYTES, "big"))).encryptor()
    stream.update(bytes(skipped))
    return stream


def words(key: bytes, start: int, count: int) -> NDArray[np.uint64]:
    """Words ``start`` to ``start + count`` (without it) of a key's stream."""
    made = stream_from(key, start * _WORD_BYTES).update(bytes(count * _WORD_BYTES))
    return np.frombuffer(made, dtype="<u8").astype(np.uint64, copy=False)
