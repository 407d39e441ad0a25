"""8,500 broken messages, trailers, certificates and sealed bodies: each is decoded or refused, with no other error."""

import logging

import pytest
from bodies import ANY_PART_BYTES
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import (
    BLOB,
    HEADERS,
    SMALL,
    TOPK,
    altered,
    broken,
    damaged,
    folded_or_refused,
    garbage,
    header_bytes,
    message,
    payload_of,
    update_head,
)

from aggregator.rounds.intake import Expected
from broker.memory import MemoryBroker, MemoryTransport
from broker.states.compression import Encoding
from broker.states.tensors import specs_of
from broker.wire.bodies import Incoming, Outgoing
from broker.wire.codec import decode_from, encode
from broker.wire.messages import Compression, Header, UpdateHead
from broker.wire.signatures import Signer, Trailer, Trust, signed_text
from broker.wire.specs import kept
from broker.wire.topology import Topology
from console.errors import ForgedMessage, MalformedMessage, UnfitMessage
from identities.certificates import Certificate
from identities.in_memory import AGGREGATOR, in_memory
from identities.membership import Membership
from identities.private_keys import PrivateKeys
from identities.roster_file import FixedRoster
from identities.sealing import Opener, Sealing, UpdateContext
from identities.trust import Verified

NOW = 1.8e9
FEDERATION = in_memory(["site-a", "site-b"])
CHECKING = FEDERATION.trust(clock=lambda: NOW)
ADMITTED = PrivateKeys.generate("worker", "site-a-7")
CERTIFICATE = Certificate.issue(FEDERATION.keys["site-a"], ADMITTED.public, now=NOW, days=7)


class Fixed:
    def current(self) -> Certificate:
        return CERTIFICATE


ON_CERTIFICATE = Verified(FixedRoster(FEDERATION.roster), ADMITTED, Fixed(), clock=lambda: NOW)
SIGNERS: dict[type[Header], Trust] = {
    kind: FEDERATION.trust(AGGREGATOR if kind.__name__ in ("ModelHead", "Status", "PartialHead") else "site-a")
    for kind in HEADERS
}
SIGNED: dict[type[Header], list[bytes]] = {
    kind: [encode(head, payload, trust=SIGNERS[kind]) for head, payload in heads] for kind, heads in HEADERS.items()
}
CERTIFIED = [encode(head, payload, trust=ON_CERTIFICATE) for head, payload in HEADERS[UpdateHead]]
KINDS = st.sampled_from(sorted(SIGNED, key=lambda kind: kind.__name__))


def before_payload(body: bytes) -> bytes:
    """What a signature holds: prefix, header, trailer and the zeros after them."""
    end = 12 + int.from_bytes(body[4:8], "little") + int.from_bytes(body[8:12], "little")
    return body[: end + -end % 64]


def assert_refused_unless_only_its_payload_changed(body: bytes, originals: list[bytes], kind: type[Header]) -> None:
    try:
        decode_from(body, kind, trust=CHECKING)
    except (ForgedMessage, MalformedMessage) as error:
        reason = str(error)
    else:
        reason = "none"
        assert any(body.startswith(before_payload(original)) for original in originals)
    assert reason


@settings(max_examples=2500)
@given(st.data())
def test_a_signed_message_with_any_change_is_refused(data: st.DataObject) -> None:
    kind = data.draw(KINDS)
    body = data.draw(broken(SIGNED[kind]))
    assert_refused_unless_only_its_payload_changed(body, SIGNED[kind], kind)


@settings(max_examples=1500)
@given(broken(CERTIFIED))
def test_a_message_signed_with_a_certificate_and_changed_is_refused(body: bytes) -> None:
    assert_refused_unless_only_its_payload_changed(body, CERTIFIED, UpdateHead)


TRAILERS = st.binary(max_size=400) | damaged([body[12 + len(header_bytes(body)) :][:72] for body in SIGNED[UpdateHead]])


@settings(max_examples=1000)
@given(st.data())
def test_a_header_with_any_other_trailer_is_refused(data: st.DataObject) -> None:
    """Random bytes, a broken trailer, or the genuine one of another message."""
    kind, other = data.draw(KINDS), data.draw(KINDS)
    packed = header_bytes(data.draw(st.sampled_from(SIGNED[kind])))
    stolen = [body[12 + len(header_bytes(body)) :][:72] for body in SIGNED[other] if header_bytes(body) != packed]
    trailer = data.draw(TRAILERS | (st.sampled_from(stolen) if stolen else st.nothing()))
    genuine = SIGNERS[kind].sign(str(kind.model_fields["kind"].default), packed)
    if trailer == genuine:
        return
    with pytest.raises((ForgedMessage, MalformedMessage)):
        decode_from(message(packed, payload_of(SMALL), trailer=trailer), kind, trust=CHECKING)


@settings(max_examples=1000)
@given(damaged([CERTIFICATE.packed]) | st.binary(min_size=1, max_size=256))
def test_a_certificate_that_its_site_did_not_sign_admits_nobody(certificate: bytes) -> None:
    """Whoever has the key signs the message with whatever certificate it likes."""
    packed = header_bytes(CERTIFIED[0])
    signature = ADMITTED.signing.sign(signed_text("update", packed, certificate[:256]))
    trailer = Trailer(ADMITTED.public.key_id, signature, certificate[:256]).packed
    if certificate == CERTIFICATE.packed:
        return
    with pytest.raises(ForgedMessage):
        decode_from(message(packed, trailer=trailer), UpdateHead, trust=CHECKING)


@settings(max_examples=1000)
@given(altered([body for bodies in SIGNED.values() for body in bodies]) | garbage(), KINDS)
def test_what_a_member_itself_signs_is_decoded_or_malformed(body: bytes, kind: type[Header]) -> None:
    """A stolen site can sign any header."""
    if not body.startswith(b"FMQ\x02"):
        return
    packed = header_bytes(body)
    trailer = SIGNERS[kind].sign(str(kind.model_fields["kind"].default), packed)
    try:
        decoded = decode_from(message(packed, trailer=trailer), kind, trust=CHECKING)
    except MalformedMessage as error:
        reason = str(error)
    else:
        reason = "none"
        assert decoded.signer is not None
    assert reason


# -- sealed bodies --------------------------------------------------------------------------------------------

OPENS = FEDERATION.keys[AGGREGATOR].opening
assert OPENS is not None
SEALING = Sealing(lambda: FEDERATION.roster.opening_key, [OPENS])
PAYLOAD = payload_of(SMALL)
CONTEXT = UpdateContext(
    run_id="demo.0a1b2c3d",
    round=3,
    worker="site-a",
    instance="0123456789abcdef",
    model_sha256="",
    specs_sha256=kept(specs_of(SMALL)).sha256,
)


def sealed(*, zstd: int = 0, in_parts: bool = False) -> tuple[UpdateHead, list[bytes]]:
    """The head of a sealed update, and its parts as they travel."""
    seal, key = SEALING.seal(CONTEXT)
    body = Outgoing(specs_of(SMALL), len(PAYLOAD), zstd=zstd, seal=seal)
    size = BLOB.part_bytes if in_parts else len(PAYLOAD)
    parts = list(body.parts(PAYLOAD[start : start + size] for start in range(0, len(PAYLOAD), size)))
    compression = TOPK if zstd else Compression()
    blob = BLOB if in_parts else None
    return update_head(SMALL, sha256=body.digest.hex, sealed=key, compression=compression, blob=blob), parts


SEALED = [sealed(), sealed(zstd=3), sealed(in_parts=True), sealed(zstd=3, in_parts=True)]


@settings(max_examples=1000)
@given(st.sampled_from(SEALED), st.data())
def test_parts_that_were_not_sealed_as_these_are_unfit(
    sample: tuple[UpdateHead, list[bytes]], data: st.DataObject
) -> None:
    head, parts = sample
    opener = SEALING.unseal(CONTEXT, head.sealed or "")
    assert isinstance(opener, Opener)
    body = Incoming(head, are_zstd=head.compression.zstd > 0, seal=opener)
    given_parts = data.draw(st.lists(st.sampled_from(parts) | damaged(parts) | st.binary(max_size=60), max_size=6))
    try:
        taken = b"".join(bytes(body.take(part)[1]) for part in given_parts if not body.is_complete)
    except UnfitMessage as error:
        reason, taken = str(error), b""
        assert given_parts[: len(parts)] != parts
    else:
        reason = "none"
    assert reason
    assert PAYLOAD.startswith(taken)


@settings(max_examples=500)
@given(st.data())
def test_an_aggregator_with_a_roster_reads_any_update_or_refuses_it_and_its_sum_stays_finite(
    data: st.DataObject,
) -> None:
    """Through its whole way, whoever signed it: header, signature, key, fit, blob, digest, sum."""
    head, parts = data.draw(st.sampled_from(SEALED))
    encoding = Encoding(specs_of(SMALL), head.compression if data.draw(st.booleans()) else Compression())
    membership = Membership(CHECKING, SEALING, ("signed", "sealed"))
    expected = Expected("demo.0a1b2c3d", encoding, Topology("updates"), ANY_PART_BYTES, membership=membership)
    key = data.draw(st.just(head.sealed) | st.binary(min_size=80, max_size=80).map(bytes.hex))
    payload = b"" if head.blob else data.draw(st.just(parts[0]) | damaged(parts))
    signed = encode(head.model_copy(update={"sealed": key}), payload, trust=FEDERATION.trust("site-a"))
    body = data.draw(st.just(signed) | damaged([signed]))
    transport = MemoryTransport(MemoryBroker())
    transport.write_blob(BLOB.name, data.draw(st.just(parts) | st.lists(st.binary(max_size=40), max_size=4)))
    folded_or_refused(body, expected, transport)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def test_the_samples_are_valid_before_they_are_broken() -> None:
    for kind, bodies in SIGNED.items():
        for body in bodies:
            assert decode_from(body, kind, trust=CHECKING).signer is not None
    for body in CERTIFIED:
        assert decode_from(body, UpdateHead, trust=CHECKING).signer == Signer("worker", "site-a-7")
    for head, parts in SEALED:
        body = Incoming(head, are_zstd=head.compression.zstd > 0, seal=SEALING.unseal(CONTEXT, head.sealed or ""))
        assert b"".join(bytes(body.take(part)[1]) for part in parts) == PAYLOAD
        assert body.is_complete
