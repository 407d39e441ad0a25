"""How glibc's malloc treats large blocks; other C libraries are left as they are.

By default it learns from the first freed tensor to keep blocks of any size, separately for each thread, and memory
grows by whole models. Giving everything back at once costs more than it saves: the system clears each new page first,
and every part of a message would be on new pages. So a part or two are kept, and given back where that lowers a peak.
"""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from malloc.h
_TWO_PARTS_BYTES = 2**24


def keep_little() -> None:
    """From now on, blocks larger than two parts go back to the system when freed; smaller ones share one arena."""
    with contextlib.suppress(OSError, AttributeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(_M_MMAP_THRESHOLD, _TWO_PARTS_BYTES)
        glibc.mallopt(_M_TRIM_THRESHOLD, _TWO_PARTS_BYTES)
        glibc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Gives all free memory back to the system; only for large models, as it takes a millisecond."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
