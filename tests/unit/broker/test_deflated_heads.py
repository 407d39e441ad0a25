"""Heads that everybody reads although not everybody takes part: deflated, and what is refused of such messages."""

import zlib

import msgpack
import pytest

from broker.wire import messages
from broker.wire.buffers import Buffer
from broker.wire.codec import MAX_HEADER_BYTES, decode, decode_from, encode
from broker.wire.deflated import DICTIONARY, deflated
from broker.wire.headers import Draw
from broker.wire.messages import ModelHead, Presence
from broker.wire.signatures import Believing, Signer
from broker.wire.specs import TensorSpec
from console.errors import MalformedMessage

HEAD = ModelHead(
    tensors=(TensorSpec("head.bias", "float32", (10,)), TensorSpec("head.weight", "float32", (10, 512))),
    sha256="0123456789abcdef" * 4,
    run="federation",
    run_id="federation.0a1b2c3d",
    epoch=1,
    round=7,
    num_rounds=50,
    seed=3,
    blob=messages.BlobRef(name="updates.blob.model.federation.0a1b2c3d.7", part_bytes=8388608),
    replies=("diverged", "measured"),
    draw=Draw(number=1, threshold=1519778270318692453),
)


def message(stream: bytes, *, version: int = 3) -> bytes:
    prefix = b"FMQ" + bytes([version]) + len(stream).to_bytes(4, "little") + bytes(4)
    return prefix + stream + bytes(-(len(prefix) + len(stream)) % 64)


def refusal(body: bytes) -> str:
    with pytest.raises(MalformedMessage) as caught:
        decode(body, ModelHead)
    return str(caught.value)


def test_a_deflated_head_is_read_as_it_was_and_takes_less_than_half_the_bytes() -> None:
    body = encode(HEAD, b"payload", deflates=True)
    head, payload = decode(body, ModelHead)
    assert (head, bytes(payload)) == (HEAD, b"payload")
    assert len(encode(HEAD, deflates=True)) <= 256
    assert len(encode(HEAD)) > 512


def test_a_signature_is_of_the_bytes_that_travel() -> None:
    class Recording(Believing):
        def sign(self, kind: str, header: Buffer) -> bytes:
            return zlib.crc32(header).to_bytes(4, "little")

        def signer_of(self, kind: str, header: Buffer, trailer: Buffer) -> Signer:
            assert bytes(trailer) == self.sign(kind, header)
            return Signer("aggregator", "aggregator")

    body = encode(HEAD, trust=Recording(), deflates=True)
    received = decode_from(body, ModelHead, trust=Recording())
    assert (received.header, received.signer) == (HEAD, Signer("aggregator", "aggregator"))


def test_no_other_message_is_read_with_a_deflated_header() -> None:
    presence = Presence(worker="site-a", instance="0011223344556677", state="idle")
    with pytest.raises(MalformedMessage, match="message format 3 is for models alone"):
        decode(encode(presence, deflates=True), Presence)


def test_a_header_that_is_more_than_it_may_be_is_refused_once_that_much_is_inflated() -> None:
    assert len(deflated(bytes(MAX_HEADER_BYTES * 100))) < MAX_HEADER_BYTES
    bomb = message(deflated(bytes(MAX_HEADER_BYTES * 100)))
    assert refusal(bomb) == f"header has more than {MAX_HEADER_BYTES} bytes in its zlib stream"


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "not one whole zlib stream"),
        (b"garbage", "no valid zlib stream"),
        (zlib.compress(msgpack.packb({})), "ModelHead tensors"),
        (deflated(b"")[:-1], "not one whole zlib stream"),
        (deflated(b"\x80") + b"\0", "not one whole zlib stream"),
        (deflated(b"\xc1"), "not valid msgpack"),
    ],
    ids=["empty", "garbage", "no dictionary", "cut off", "more behind it", "no map"],
)
def test_what_is_not_one_whole_stream_of_a_header_is_refused(stream: bytes, reason: str) -> None:
    assert reason in refusal(message(stream))


def test_a_stream_with_another_dictionary_is_refused() -> None:
    other = zlib.compressobj(zdict=DICTIONARY[1:])
    assert "no valid zlib stream" in refusal(message(other.compress(b"\x80") + other.flush()))
