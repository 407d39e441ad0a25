"""How a process of fedmq's is to manage its memory.

Models and updates come and go by the 100 MB. Memory that the system gives anew, page by page, costs more than what is
done with it: 60 to 70 ms for 100 MB, where a copy takes 10. So tensors lie in huge pages where the system has them, and
what the parts of a body lay in is kept for the next ones.
"""

import contextlib
import ctypes
import os

_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""PyTorch's variable for them; it is read when the first tensor is made."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of ``mallopt(3)``: bytes that stay with the process, and size from which an allocation is a mapping of its own."""
_KEPT_BYTES, _MAPPED_BYTES = 64 * 2**20, 32 * 2**20


def prepare() -> None:
    """Before anything large is allocated. What the user's environment says of huge pages holds."""
    os.environ.setdefault(_HUGE_PAGES, "1")
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
