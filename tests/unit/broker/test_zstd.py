"""One frame a body or part, believed in nothing."""

import tracemalloc

import pytest
import zstandard

from broker.wire.zstd import compressed, decompressed
from console.errors import UnfitMessage

PART = bytes(range(256)) * 1024


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("part", [b"", b"x", PART], ids=len)
def test_a_part_comes_out_as_it_was(part: bytes, level: int) -> None:
    assert decompressed(compressed(part, level), len(part)) == part


def test_level_0_leaves_bodies_and_parts_as_they_are() -> None:
    assert compressed(PART, 0) == PART


def bomb(num_bytes: int, announced: int) -> bytes:
    """A frame of so many zeros whose header tells another size."""
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(num_bytes)))
    at = frame.index(num_bytes.to_bytes(4, "little"), 5, 10)
    frame[at : at + 4] = announced.to_bytes(4, "little")
    return bytes(frame)


BAD = {
    "nothing": b"",
    "garbage": b"garbage" * 9,
    "cut": compressed(PART, 3)[:-1],
    "with more after it": compressed(PART, 3) + b"x",
    "two frames": compressed(PART, 3) * 2,
    "another size": compressed(PART + b"x", 3),
    "size not told": zstandard.ZstdCompressor(write_content_size=False).compress(PART),
    "skippable": b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip" + compressed(PART, 3),
    "more than it tells": bomb(2**28, len(PART)),
    "less than it tells": bomb(len(PART) - 1, len(PART)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_frame_that_is_not_what_was_announced_is_unfit_and_allocates_little(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UnfitMessage, match="zstd"):
            decompressed(BAD[name], len(PART))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
