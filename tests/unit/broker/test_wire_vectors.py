"""The wire format's test vectors: today's code makes them, and a decoder that knows only docs/wire.md reads them."""

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from wire_vectors import OPENING, ROSTER, SEALED, SITE, shown, trust_of, vectors

from broker.wire import DifferentialPrivacy, KeeperRequest, Masking, Release, SealedSeed, Withheld, messages
from broker.wire.bodies import Incoming
from broker.wire.codec import decode_from
from broker.wire.headers import Header
from broker.wire.signatures import Believing
from identities.sealing import Sealing, UpdateContext

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
VECTORS = {vector["name"]: vector for vector in json.loads((ROOT / "docs" / "vectors.json").read_text("utf-8"))}
DICTIONARY = bytes.fromhex(PAGE.partition("## Dictionary")[2].split("```")[1])
HEADERS = ("ModelHead", "UpdateHead", "Reply", "PartialHead", "Folded", "Presence", "Status", "WorkerStatus")
SIGNED = [name for name, vector in VECTORS.items() if "public_key" in vector]
NUMPY = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "int8": "<i1"}


def test_the_code_makes_the_vectors() -> None:
    made = {vector["name"]: vector for vector in vectors()}
    assert [*made, SEALED] == [*VECTORS]
    for name, vector in made.items():
        assert vector["header"] == VECTORS[name]["header"]
        assert vector.get("delta") == VECTORS[name].get("delta")
        if "zstd" not in name and "deflated" not in name:  # whose bytes are the library's own affair
            assert vector["bytes"] == VECTORS[name]["bytes"], "python -m wire_vectors docs/vectors.json"


@pytest.mark.parametrize("kind", [Masking, DifferentialPrivacy, SealedSeed, KeeperRequest, Release, Withheld])
def test_the_page_names_every_field_of_what_masked_updates_need(kind: type[Header]) -> None:
    assert not [field for field in kind.model_fields if f"`{field}`" not in PAGE]


@pytest.mark.parametrize("name", HEADERS)
def test_the_page_names_every_field_of_a_header(name: str) -> None:
    model = getattr(messages, name)
    missing = [field for field in model.model_fields if f"`{field}`" not in PAGE]
    assert not missing


@pytest.mark.parametrize("name", VECTORS)
def test_a_decoder_that_follows_the_page_reads_a_vector(name: str) -> None:
    vector = VECTORS[name]
    header, payload = framed(bytes.fromhex(vector["bytes"]))
    assert shown(header) == vector["header"]
    if "tensors" not in header or "sealed" in header:
        assert payload == b""
        return
    payload = payload or b"".join(map(bytes.fromhex, vector.get("parts", ())))
    if header.get("compression", {}).get("zstd") and header["kind"] == "update":
        payload = zstandard.ZstdDecompressor().decompress(payload)
    if header.get("downlink") == "bfloat16":
        payload = widened(header["tensors"], payload)
    content = msgpack.packb(header["tensors"]) + payload
    assert "sha256" in header or "blake3" in header
    assert header.get("sha256") in (None, hashlib.sha256(content).hexdigest())
    assert header.get("blake3") in (None, blake3(content).hexdigest())
    state = tensors_of(header["tensors"], payload)
    if header["kind"] == "model":
        assert state["steps"].tolist() == 3
        assert state["weight"][1, 299] == np.float32((300 if "downlink" in header else 299) / 256)
    else:
        assert delta_of(header, state) == vector["delta"]


def test_a_head_of_algorithms_reads_as_the_page_says() -> None:
    message = bytes.fromhex(VECTORS["model, with a control variate, for a sample"]["bytes"])
    header, payload = framed(message)
    assert header["sets"] == ["control"]
    state = tensors_of(header["tensors"], payload)
    assert state["control/bias"].tolist() == [0.0625, 0.0]
    assert state["control/weight"].shape == state["weight"].shape
    counted = dict(struct.iter_unpack("<8sI", header["counted"]))
    assert counted == {digest_of("hospital-a")[:8]: 3, digest_of("hospital-b")[:8]: 2}
    assert [*counted] == sorted(counted, key=lambda first: int.from_bytes(first, "little"))
    head = decode_from(message, messages.ModelHead, trust=Believing()).header
    assert [head.last_counted(f"hospital-{site}") for site in "abc"] == [3, 2, None]
    chosen = []
    for site in "abcdef":
        place = digest_of(f"{header['seed']}/{header['round']}/hospital-{site}/select")[:8]
        chosen.append(int.from_bytes(place, "little") < header["draw"]["threshold"])
    assert [head.chooses(f"hospital-{site}") for site in "abcdef"] == chosen
    assert len({*chosen}) == 2


@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if vector["header"]["kind"] == "model"])
def test_the_code_reads_a_model_s_vector_and_says_the_same_of_it(name: str) -> None:
    message = bytes.fromhex(VECTORS[name]["bytes"])
    head = decode_from(message, messages.ModelHead, trust=trust_of(SITE) if name in SIGNED else Believing()).header
    assert shown(head.model_dump()) == VECTORS[name]["header"]


def digest_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


# -- signatures and sealing, with nothing but the page and a library of ciphers ------------------------------------


@pytest.mark.parametrize("name", SIGNED)
def test_the_signature_of_a_vector_is_as_the_page_says(name: str) -> None:
    vector = VECTORS[name]
    message = bytes.fromhex(vector["bytes"])
    length, trailer_length = struct.unpack("<II", message[4:12])
    header, trailer = message[12 : 12 + length], message[12 + length : 12 + length + trailer_length]
    key_id, signature, certificate = trailer[:8], trailer[8:72], trailer[72:]
    public = bytes.fromhex(vector["public_key"])
    assert key_id == hashlib.sha256(public).digest()[:8]
    kind = vector["header"]["kind"].encode()
    text = b"fedmq/2|" + kind + b"|" + struct.pack("<H", len(certificate)) + certificate + header
    Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text[:-1] + bytes([text[-1] ^ 1]))
    assert bool(certificate) == ("certificate" in vector)
    if certificate:
        assert certified(certificate, public) == vector["certificate"]


def certified(certificate: bytes, worker_key: bytes) -> dict[str, Any]:
    """What a certificate says, by the table of the page."""
    name = certificate[58 : 58 + certificate[57]]
    signature = certificate[58 + len(name) :]
    assert (certificate[0], len(signature), certificate[9:41]) == (1, 64, worker_key)
    site = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    assert certificate[1:9] == hashlib.sha256(site.public_bytes_raw()).digest()[:8]
    site.verify(signature, b"fedmq certificate|" + certificate[:-64])
    valid_from, valid_until = struct.unpack("<QQ", certificate[41:57])
    return {
        "site_public_key": site.public_bytes_raw().hex(),
        "worker": name.decode(),
        "valid_from": valid_from,
        "valid_until": valid_until,
    }


def test_the_sealed_vector_opens_as_the_page_says() -> None:
    vector = VECTORS[SEALED]
    header, parts = vector["header"], [bytes.fromhex(part) for part in vector["parts"]]
    packed = msgpack.packb(header["tensors"])
    fields = [
        "fedmq update v1",
        header["run_id"],
        str(header["round"]),
        header["worker"],
        header["instance"],
        header["model_sha256"],
        hashlib.sha256(packed).hexdigest(),
    ]
    info = b"".join(struct.pack(">H", len(field)) + field.encode() for field in fields)
    opening = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    cipher = AESGCM(suite.decrypt(bytes.fromhex(header["sealed"]), opening, info=info))
    body = b""
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        bound = hashlib.sha256(info).digest() + struct.pack(">I?", number, is_last)
        body += cipher.decrypt(number.to_bytes(12, "big"), part, bound)
    assert [len(part) for part in parts] == [2048 + 16, len(body) - 2048 + 16]
    assert hashlib.sha256(packed + b"".join(parts)).hexdigest() == header["sha256"]
    assert delta_of(header, tensors_of(header["tensors"], body)) == vector["delta"]


def test_the_code_believes_and_opens_the_vectors() -> None:
    for name in SIGNED:
        vector = VECTORS[name]
        kind = {
            one.model_fields["kind"].default: one
            for one in (messages.ModelHead, messages.Presence, messages.UpdateHead, messages.Reply)
        }
        message = decode_from(bytes.fromhex(vector["bytes"]), kind[vector["header"]["kind"]], trust=trust_of(SITE))
        assert message.signer is not None
        assert message.signer.name == vector["header"].get("worker", "aggregator")
    update = decode_from(bytes.fromhex(VECTORS[SEALED]["bytes"]), messages.UpdateHead, trust=trust_of(SITE)).header
    context = UpdateContext(
        run_id=update.run_id,
        round=update.round,
        worker=update.worker,
        instance=update.instance,
        model_sha256=update.model_sha256 or "",
        specs_sha256=hashlib.sha256(msgpack.packb(VECTORS[SEALED]["header"]["tensors"])).hexdigest(),
    )
    seal = Sealing(lambda: ROSTER.opening_key, [OPENING]).unseal(context, update.sealed or "")
    body = Incoming(update, seal=seal)
    opened = b"".join(bytes(body.take(bytes.fromhex(part))[1]) for part in VECTORS[SEALED]["parts"])
    assert body.is_complete
    assert (
        delta_of(VECTORS[SEALED]["header"], tensors_of(update.model_dump()["tensors"], opened))
        == VECTORS[SEALED]["delta"]
    )


def framed(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload, by the table of the page."""
    assert message[:3] == b"FMQ"
    length, trailer = struct.unpack("<II", message[4:12])
    offset = -(-(12 + length + trailer) // 64) * 64
    assert not any(message[12 + length + trailer : offset])
    header = message[12 : 12 + length]
    if message[3] == 3:
        header = zlib.decompressobj(zdict=DICTIONARY).decompress(header)
    else:
        assert message[3] == 2
    return msgpack.unpackb(header), message[offset:]


def tensors_of(specs: list[Any], payload: bytes) -> dict[str, Any]:
    state, offset = {}, 0
    for name, dtype, shape in specs:
        count = int(np.prod(shape, dtype=np.int64))
        if dtype == "bfloat16":  # the upper half of a float32
            values = (np.frombuffer(payload, "<u2", count, offset).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(payload, NUMPY[dtype], count, offset)
        state[name] = values.reshape(shape)
        offset += count * (2 if dtype == "bfloat16" else values.itemsize)
    assert offset == len(payload)
    return state


def widened(specs: list[Any], payload: bytes) -> bytes:
    """What is read from a model in bfloat16 that has no sets besides the model's, by the page."""
    read, offset = b"", 0
    for _, dtype, shape in specs:
        count = int(np.prod(shape, dtype=np.int64))
        if dtype == "float32" and (len(shape) > 1 or count > 4096):
            upper = np.frombuffer(payload, "<u2", count, offset)
            read, offset = read + (upper.astype("<u4") << 16).tobytes(), offset + 2 * count
        else:
            size = count * np.dtype(NUMPY[dtype]).itemsize
            read, offset = read + payload[offset : offset + size], offset + size
    assert offset == len(payload)
    return read


def delta_of(header: dict[str, Any], state: dict[str, Any]) -> dict[str, list[float]]:
    """The delta that an update of the vectors' model decodes to: weight (2, 300), bias (2), steps ()."""
    places = {"0": ("steps", ()), "1": ("bias", (2,)), "2": ("weight", (2, 300))}
    delta = {}
    for name, values in state.items():
        place, dot, kind = name.partition(".")
        if not dot:
            delta[name] = values
        elif kind == "plain":
            delta[places[place][0]] = values
        elif kind == "codes":
            scales = np.repeat(state[f"{place}.scales"], 256)[: values.size]
            delta[places[place][0]] = values.reshape(-1).astype(np.float32) * scales
        elif kind == "values":
            dense = np.zeros(int(np.prod(places[place][1])), np.float32)
            dense[np.cumsum(state[f"{place}.gaps"]) - 1] = values
            delta[places[place][0]] = dense
    return {name: np.asarray(values).reshape(-1).tolist() for name, values in delta.items()}
