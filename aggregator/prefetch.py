"""How many messages an aggregator may hold that it has not acked: what bounds its memory, however many wait."""

from collections.abc import Iterable

_PREFETCH_BYTES = 64 * 2**20
_MAX_PREFETCH = 64
_MIN_PREFETCH = 4


def affordable_prefetch(body_bytes: Iterable[int], inline_cap: int) -> int:
    """For bodies of these sizes: at most 64 MiB of them, or four; those above ``inline_cap`` are only descriptors."""
    largest = max((size for size in body_bytes if size <= inline_cap), default=0)
    if largest == 0:
        return _MAX_PREFETCH
    return max(_MIN_PREFETCH, min(_MAX_PREFETCH, _PREFETCH_BYTES // largest))
