"""The wire format: its bytes, and what is refused."""

import msgpack
import pytest

from broker.wire.buffers import Buffer
from broker.wire.codec import MAX_HEADER_BYTES, decode, decode_from, encode
from broker.wire.messages import ModelHead, Presence, UpdateHead
from broker.wire.signatures import Believing, Signer
from broker.wire.specs import TensorSpec
from console.errors import ForgedMessage, MalformedMessage

PRESENCE = Presence(worker="site-a", instance="0011223344556677", state="training", round=3, progress=0.25)
FIELDS = PRESENCE.model_dump()
HEAD = ModelHead(
    tensors=(TensorSpec("b", "float32", (2, 3)), TensorSpec("a", "int8", ())),
    sha256="0" * 64,
    run="r",
    run_id="r.1",
    epoch=1,
    round=3,
    num_rounds=9,
    seed=0,
)


def message(
    packed: bytes,
    payload: bytes = b"",
    *,
    version: int = 2,
    announced: int | None = None,
    trailer: bytes = b"",
    announced_trailer: int | None = None,
) -> bytes:
    lengths = [len(packed) if announced is None else announced]
    if version > 1:
        lengths.append(len(trailer) if announced_trailer is None else announced_trailer)
    prefix = b"FMQ" + bytes([version]) + b"".join(length.to_bytes(4, "little") for length in lengths)
    padding = bytes(-(len(prefix) + len(packed) + len(trailer)) % 64)
    return prefix + packed + trailer + padding + payload


def refusal(body: bytes) -> str:
    with pytest.raises(MalformedMessage) as caught:
        decode(body, Presence)
    return str(caught.value)


def refusal_of(**changes: object) -> str:
    return refusal(message(msgpack.packb(FIELDS | changes)))


def test_a_message_is_magic_version_length_header_padding_payload() -> None:
    """A known answer: what an implementation in another language has to write."""
    packed = (
        "86"  # a map of six
        "a46b696e64a870726573656e6365"  # kind: presence
        "a6776f726b6572a6736974652d61"  # worker: site-a
        "a8696e7374616e6365b030303131323233333434353536363737"  # instance: 0011223344556677
        "a57374617465a8747261696e696e67"  # state: training
        "a5726f756e6403"  # round: 3
        "a870726f6772657373cb3fd0000000000000"  # progress: 0.25
    )
    prefix, padding, payload = "464d5102" + "5f000000" + "00000000", "00" * 21, "7061796c6f6164"
    assert encode(PRESENCE, b"payload").hex() == prefix + packed + padding + payload


class Signed(Believing):
    """Signs with a word, and accepts no other."""

    def sign(self, kind: str, header: Buffer) -> bytes:
        return f"signed {kind} {len(header)}".encode()

    def signer_of(self, kind: str, header: Buffer, trailer: Buffer) -> Signer:
        if bytes(trailer) != self.sign(kind, header):
            raise ForgedMessage("not the word")
        return Signer("worker", "site-a")


def test_a_signed_message_has_its_trailer_between_header_and_padding() -> None:
    body = encode(PRESENCE, b"payload", trust=Signed())
    assert body[8:12] == len(b"signed presence 95").to_bytes(4, "little")
    assert body[12 + 95 :].startswith(b"signed presence 95\0")
    received = decode_from(body, Presence, trust=Signed())
    assert (received.header, bytes(received.payload)) == (PRESENCE, b"payload")
    assert received.signer == Signer("worker", "site-a")
    assert decode(body, Presence) == (PRESENCE, b"payload")


def test_a_message_without_a_signature_is_from_nobody_known() -> None:
    assert decode_from(encode(PRESENCE), Presence, trust=Believing()).signer is None
    with pytest.raises(ForgedMessage):
        decode_from(encode(PRESENCE), Presence, trust=Signed())


def test_a_signature_is_checked_before_the_header_is_parsed() -> None:
    with pytest.raises(ForgedMessage, match="not the word"):
        decode_from(message(b"\xc1", trailer=b"forged"), Presence, trust=Signed())


def test_a_message_of_version_1_is_read_and_is_not_signed() -> None:
    body = message(msgpack.packb(FIELDS), b"payload", version=1)
    assert decode(body, Presence) == (PRESENCE, b"payload")
    with pytest.raises(ForgedMessage):
        decode_from(body, Presence, trust=Signed())


def test_a_trailer_above_the_limit_is_refused_before_it_is_looked_at() -> None:
    assert "trailer of 4294967295 bytes announced" in refusal(message(b"\x80", announced_trailer=2**32 - 1))


def test_the_payload_begins_at_a_multiple_of_64_bytes_and_is_not_copied() -> None:
    body = encode(PRESENCE, b"payload")
    head, payload = decode(body, Presence)
    assert head == PRESENCE
    assert payload == b"payload"
    assert payload.obj is body
    assert (len(body) - len(payload)) % 64 == 0


def test_pickle_bytes_are_not_a_fedmq_message() -> None:
    assert "not a fedmq message" in refusal(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.")


def test_an_empty_body_is_refused() -> None:
    assert "begins with nothing" in refusal(b"")


def test_a_body_that_ends_within_the_prefix_is_cut_off() -> None:
    assert "cut off after 6 bytes" in refusal(encode(PRESENCE)[:6])


def test_a_body_that_ends_within_the_header_or_its_padding_is_cut_off() -> None:
    body = encode(PRESENCE)
    for length in (13, 50, len(body) - 1):
        assert "cut off" in refusal(body[:length])


def test_another_version_is_named() -> None:
    assert "message format 4; this fedmq reads formats 1 to 3" in refusal(message(b"\x80", version=4))


def test_a_header_above_the_limit_is_refused_before_it_is_looked_at() -> None:
    assert f"{MAX_HEADER_BYTES + 1} bytes announced" in refusal(message(b"\x80", announced=MAX_HEADER_BYTES + 1))
    assert str(2**32 - 1) in refusal(message(b"\x80", announced=2**32 - 1))


def test_a_header_above_the_limit_cannot_be_sent() -> None:
    specs = tuple((f"{number:05d}" + "x" * 500, "uint8", ()) for number in range(9000))
    fields = {"tensors": specs, "sha256": "0" * 64, "run": "r", "run_id": "r", "epoch": 0, "round": 0}
    head = ModelHead.model_validate(fields | {"num_rounds": 1, "seed": 0})
    with pytest.raises(MalformedMessage, match="at most 4194304"):
        encode(head)


def test_padding_that_is_not_zero_is_refused() -> None:
    body = bytearray(encode(PRESENCE))
    body[-1] = 1
    assert "padding" in refusal(bytes(body))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x80\x80",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\x00\x00\x00\x01a",
        b"\xd4\x01a",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\x81\x01\x02",
        b"\x81\xa1\xff\x02",
        b"\x91" * 5000,
    ],
)
def test_a_header_that_is_not_plain_msgpack_is_refused(packed: bytes) -> None:
    assert refusal(message(packed))


def test_a_header_that_is_no_map_is_refused() -> None:
    for value in (None, 1, "text", [1, 2], 1.5):
        assert refusal(message(msgpack.packb(value)))


def test_a_missing_field_is_named() -> None:
    fields = dict(FIELDS)
    del fields["instance"]
    assert "Presence instance: Field required" in refusal(message(msgpack.packb(fields)))


def test_an_unknown_field_is_named() -> None:
    assert "surprise" in refusal_of(surprise=1)


def test_all_problems_are_counted_and_the_first_is_told() -> None:
    reason = refusal_of(worker="", round=-1)
    assert "worker" in reason
    assert "(and 1 more)" in reason


def test_a_reason_is_one_line_whatever_the_sender_called_its_fields() -> None:
    """It is logged and stored as one; a sender must not be able to write log lines of its own."""
    assert "\n" not in refusal_of(**{"x\n12:00:00 INFO    all is well": 1})


def test_a_message_of_another_kind_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        decode(encode(PRESENCE), UpdateHead)


def test_numbers_that_are_not_finite_are_refused() -> None:
    for value in (float("nan"), float("inf")):
        assert "finite" in refusal_of(progress=value)


def test_messages_with_the_same_specs_share_them_and_a_wrong_one_is_refused_each_time() -> None:
    """Specs are looked at once for a run; that must not let through what was not looked at."""
    fields = HEAD.model_dump()
    first, second = (decode(message(msgpack.packb(fields | {"round": number})), ModelHead)[0] for number in (1, 2))
    assert first.tensors is second.tensors
    assert first.tensors == HEAD.tensors
    wrong = {"two of a name": [["a", "float32", [1]]] * 2, "order": [["b", "int8", [1]], ["a", "float32", [1]]]}
    for specs in wrong.values():
        for _ in range(2):
            with pytest.raises(MalformedMessage, match=r"ModelHead tensors: .*(same name|canonical order)"):
                decode(message(msgpack.packb(fields | {"tensors": specs})), ModelHead)
    for _ in range(2):
        with pytest.raises(MalformedMessage, match=r"tensors\.0: "):
            decode(message(msgpack.packb(fields | {"tensors": [["a", "float31", [1]]]})), ModelHead)


def test_specs_that_are_packed_once_give_the_bytes_of_the_whole_map() -> None:
    assert encode(HEAD) == message(msgpack.packb(HEAD.model_dump()))


def test_specs_of_more_tensors_than_a_reader_wants_are_not_looked_at() -> None:
    """The first is wrong, which nobody gets to see: validating 100,000 of them would hold an aggregator up."""
    body = message(msgpack.packb({"tensors": [[]] * 3}))
    with pytest.raises(MalformedMessage, match="header announces 3 tensors; at most 2 are read here"):
        decode_from(body, UpdateHead, trust=Believing(), max_tensors=2)
    with pytest.raises(MalformedMessage, match=r"tensors\.0"):
        decode_from(body, UpdateHead, trust=Believing(), max_tensors=3)
