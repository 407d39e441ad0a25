"""How glibc's malloc treats large memory; other C libraries do as they do.

By default it learns from the first freed tensor to keep blocks of any size, for each thread apart, and memory grows by
whole models. Giving all of it back at once costs more than it saves, since a page that is new is cleared first, and of
the parts of messages each would be a new one. So a part or two are kept, and given back where that makes a peak lower.
"""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_TWO_PARTS_BYTES = 2**24


def keep_little() -> None:
    """From now on, blocks of more than two parts go back when they are freed; smaller ones lie in one place."""
    with contextlib.suppress(OSError, AttributeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(_M_MMAP_THRESHOLD, _TWO_PARTS_BYTES)
        glibc.mallopt(_M_TRIM_THRESHOLD, _TWO_PARTS_BYTES)
        glibc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """All that is free goes back to the system; for large models alone, as it takes a millisecond."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
