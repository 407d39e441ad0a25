"""Which of a worker's updates counted last: what it carries from round to round goes on from that one.

A worker cannot know whether its last update came in time. So the heads of a run whose workers carry something that has
to fit to the server's state say it of each worker, in 12 bytes: the first 8 of the SHA-256 of its name, and the round
of its last update that was folded, unsigned; both little-endian, in the order of the first.
"""

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Mapping

MAX_COUNTED = 10_000
"""Workers in one head."""
ENTRY_BYTES = 12
_ENTRY = struct.Struct("<QI")


def hash64(worker: str) -> int:
    """What stands for a worker's name."""
    return int.from_bytes(hashlib.sha256(worker.encode()).digest()[:8], "little")


def pack_counted(rounds: Mapping[int, int]) -> bytes:
    """The entries of a head; ``rounds`` are the last counted rounds by ``hash64``."""
    return b"".join(_ENTRY.pack(worker, number) for worker, number in sorted(rounds.items()))


def unpack_counted(packed: bytes) -> dict[int, int]:
    """The inverse of ``pack_counted``."""
    return dict(_ENTRY.iter_unpack(packed))


def last_counted(packed: bytes, worker: str) -> int | None:
    """The round of this worker's last update that counted; None if none did."""
    wanted, places = hash64(worker), range(len(packed) // ENTRY_BYTES)
    place = bisect_left(places, wanted, key=lambda place: _entry(packed, place)[0])
    found, number = _entry(packed, place) if place < len(places) else (None, None)
    return number if found == wanted else None


def _entry(packed: bytes, place: int) -> tuple[int, int]:
    worker, number = _ENTRY.unpack_from(packed, place * ENTRY_BYTES)
    return worker, number
