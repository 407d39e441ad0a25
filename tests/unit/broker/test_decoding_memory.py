"""Decoding allocates what the message may need, not what a sender announces."""

import subprocess
import sys
import tracemalloc

import msgpack
import pytest

from broker.wire.codec import MAX_HEADER_BYTES, decode
from broker.wire.messages import MAX_TENSORS, UpdateHead
from console.errors import MalformedMessage

MIB = 2**20
CAP = 64 * MIB
FIXED = 4 * MIB
"""What a decoder may take for itself, whatever is announced to it."""
ARRAY_100K = b"\xdd" + MAX_TENSORS.to_bytes(4, "big")
MAP_1000 = b"\xde" + (1000).to_bytes(2, "big")


def message(packed: bytes, *, announced: int | None = None) -> bytes:
    length = len(packed) if announced is None else announced
    return b"FMQ\x02" + length.to_bytes(4, "little") + bytes(4) + packed + bytes(-(12 + len(packed)) % 64)


def peak_bytes(body: bytes) -> int:
    """The most that Python had allocated while it refused ``body``."""
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            decode(body, UpdateHead)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_announced_header_of_4_gib_allocates_nothing() -> None:
    assert peak_bytes(message(b"\x80", announced=2**32 - 1)) < FIXED


def test_an_announced_string_array_or_map_of_4_gib_allocates_nothing() -> None:
    for start in (b"\xdb", b"\xdd", b"\xdf", b"\xc6", b"\xc9"):
        assert peak_bytes(message(start + b"\xff" * 4)) < FIXED


def test_tensors_of_2_to_the_40_elements_allocate_nothing() -> None:
    specs = [[f"t{number}", "float64", [2**40 - 1] * 16] for number in range(10)]
    assert peak_bytes(message(msgpack.packb({"tensors": specs}))) < FIXED


def test_nested_arrays_that_each_announce_the_most_stay_below_the_cap() -> None:
    """5 KiB of header: 1000 arrays in each other, each of 100,000 elements."""
    assert peak_bytes(message(b"\x81\xa7tensors" + ARRAY_100K * 1000)) < CAP


def test_a_full_header_of_empty_arrays_stays_below_the_cap() -> None:
    packed = b"\x81\xa7tensors\xdd" + (40).to_bytes(4, "big") + (ARRAY_100K + b"\x90" * MAX_TENSORS) * 40
    assert len(packed) < MAX_HEADER_BYTES
    assert peak_bytes(message(packed)) < CAP


def test_a_full_header_of_empty_maps_stays_below_the_cap() -> None:
    entries = b"".join(
        msgpack.packb(str(number)) + b"\xdd" + (4000).to_bytes(4, "big") + b"\x80" * 4000 for number in range(1000)
    )
    packed = b"\x81\xa7tensors" + MAP_1000 + entries
    assert len(packed) < MAX_HEADER_BYTES
    assert peak_bytes(message(packed)) < CAP


def test_as_many_tensors_as_are_allowed_stay_below_the_cap() -> None:
    specs = b"".join(msgpack.packb([f"{number:06}", "float32", [1, 2]]) for number in range(MAX_TENSORS))
    assert peak_bytes(message(b"\x81\xa7tensors" + ARRAY_100K + specs)) < CAP


def _bad_specs() -> bytes:
    return message(b"\x81\xa7tensors" + ARRAY_100K + b"\x93\xa0\xa0\x91\xa0" * MAX_TENSORS)


def test_as_many_wrong_tensors_as_are_allowed_stay_below_the_cap() -> None:
    """Each has several faults; collecting them all costs more than the header that holds them."""
    assert peak_bytes(_bad_specs()) < CAP


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_whole_process_grows_by_less_than_the_cap_too() -> None:
    """What tracemalloc does not see: the memory of pydantic's and msgpack's own code."""
    done = subprocess.run([sys.executable, "-c", _GROWTH], input=_bad_specs(), capture_output=True, check=True)
    assert int(done.stdout) * 1024 < CAP


_GROWTH = """
import sys
from broker.wire.codec import decode
from console.errors import MalformedMessage
from broker.wire.messages import UpdateHead
def peak_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
body = sys.stdin.buffer.read()
before = peak_kib()
try:
    decode(body, UpdateHead)
except MalformedMessage:
    print(peak_kib() - before)
"""
