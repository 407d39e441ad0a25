"""A body's parts as they travel: in clear or sealed, compressed or not, and how each is checked."""

import hashlib

import msgpack
import pytest
from blake3 import blake3

from broker.wire.bodies import Incoming, Outgoing
from broker.wire.buffers import Buffer, cut
from broker.wire.messages import BlobRef, UpdateHead
from broker.wire.specs import TensorSpec
from broker.wire.zstd import decompressed
from console.errors import UnfitMessage

SPECS = (TensorSpec("w", "uint8", (100,)),)
PLAIN = bytes(range(100))


class Mask:
    """Stands for encryption: each part in other bytes, bound to its place."""

    def part(self, index: int, is_last: bool, data: Buffer) -> bytes:
        return bytes(byte ^ 0xA5 for byte in data) + bytes([index, is_last]) * 8


class Unmask:
    def part(self, index: int, is_last: bool, data: Buffer) -> bytes:
        if bytes(data[-2:]) != bytes([index, is_last]):
            raise UnfitMessage("does not open")
        return bytes(byte ^ 0xA5 for byte in data[:-16])


def head(sha256: str | None, *, part_bytes: int | None = 40, specs: tuple[TensorSpec, ...] = SPECS) -> UpdateHead:
    blob = None if part_bytes is None else BlobRef(name="b", part_bytes=part_bytes)
    fields = {"tensors": specs, "sha256": sha256, "blob": blob, "run_id": "r", "worker": "w", "instance": "0" * 8}
    return UpdateHead.model_validate(fields | {"round": 1, "num_samples": 1, "train_s": 0, "sent_at": 0})


def digest(*pieces: bytes) -> str:
    return hashlib.sha256(msgpack.packb([list(spec) for spec in SPECS]) + b"".join(pieces)).hexdigest()


def taken(body: Incoming, parts: list[bytes]) -> list[tuple[int, bytes]]:
    return [(offset, bytes(piece)) for offset, piece in map(body.take, parts)]


CUT = [(0, PLAIN[:40]), (40, PLAIN[40:80]), (80, PLAIN[80:])]


@pytest.mark.parametrize("level", [0, 3])
def test_a_body_in_clear_has_the_digest_of_its_tensors(level: int) -> None:
    body = Outgoing(SPECS, 100, zstd=level)
    parts = list(body.parts(cut([PLAIN], 40)))
    assert body.digest.hex == digest(PLAIN)
    assert taken(Incoming(head(body.digest.hex), are_zstd=level > 0), parts) == CUT
    if level:
        assert decompressed(parts[2], 20) == PLAIN[80:]
    else:
        assert parts == [piece for _, piece in CUT]


@pytest.mark.parametrize("level", [0, 3])
def test_a_sealed_body_has_the_digest_of_its_parts_as_they_travel(level: int) -> None:
    body = Outgoing(SPECS, 100, zstd=level, seal=Mask())
    parts = list(body.parts(cut([PLAIN], 40)))
    assert body.digest.hex == digest(*parts)
    received = Incoming(head(body.digest.hex), are_zstd=level > 0, seal=Unmask())
    assert taken(received, parts) == CUT
    assert received.is_complete


def test_a_body_is_checked_by_the_function_that_its_head_names() -> None:
    for seal, opener in ((None, None), (Mask(), Unmask())):
        body = Outgoing(SPECS, 100, function="blake3", seal=seal)
        parts = list(body.parts(cut([PLAIN], 40)))
        packed = msgpack.packb([list(spec) for spec in SPECS])
        assert body.digest == ("blake3", blake3(packed + (b"".join(parts) if seal else PLAIN)).hexdigest())
        told = head("0" * 64).model_copy(update={"blake3": body.digest.hex})
        assert taken(Incoming(told, seal=opener), parts) == CUT
        with pytest.raises(UnfitMessage, match="does not match its digest"):
            taken(Incoming(told.model_copy(update={"blake3": "0" * 64}), seal=Unmask() if seal else None), parts)


def test_a_header_without_a_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="no digest: neither sha256 nor blake3"):
        head(None)


def test_a_body_in_its_message_is_one_part() -> None:
    for seal, opener in ((None, None), (Mask(), Unmask())):
        body = Outgoing(SPECS, 100, seal=seal)
        whole = body.whole([PLAIN[:7], PLAIN[7:]])
        received = Incoming(head(body.digest.hex, part_bytes=None), seal=opener)
        assert taken(received, [b"".join(whole)]) == [(0, PLAIN)]
        assert received.is_complete


def test_a_body_without_tensors_is_complete_with_its_empty_part() -> None:
    body = Outgoing((), 0)
    received = Incoming(head(body.digest.hex if body.whole([]) == () else "", part_bytes=None, specs=()))
    assert not received.is_complete
    assert taken(received, [b""]) == [(0, b"")]
    assert received.is_complete


def test_a_part_of_another_size_is_refused_at_once() -> None:
    with pytest.raises(UnfitMessage, match="a part of 8 bytes where 40 were announced"):
        Incoming(head("0" * 64)).take(bytes(8))
    with pytest.raises(UnfitMessage, match="a part of 40 bytes where 56 were announced"):
        Incoming(head("0" * 64), seal=Unmask()).take(bytes(40))


def test_another_digest_is_noticed_at_the_last_part() -> None:
    body = Incoming(head("0" * 64))
    assert taken(body, [PLAIN[:40], PLAIN[40:80]]) == CUT[:2]
    with pytest.raises(UnfitMessage, match="does not match its digest"):
        body.take(PLAIN[80:])


def test_sealed_parts_in_another_order_do_not_open() -> None:
    body = Outgoing(SPECS, 100, seal=Mask())
    parts = list(body.parts(cut([PLAIN], 40)))
    with pytest.raises(UnfitMessage, match="does not open"):
        Incoming(head(body.digest.hex), seal=Unmask()).take(parts[1])
