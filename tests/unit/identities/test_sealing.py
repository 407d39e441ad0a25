"""Sealing: what opens, what does not, and the numbers of RFC 9180."""

import hashlib
import hmac
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from broker.wire import SealedSeed
from console import IdentityError, UnfitMessage
from identities import seal_seed
from identities.sealing import (
    SEALED_KEY_BYTES,
    TAG_BYTES,
    Opener,
    Sealer,
    Sealing,
    UpdateContext,
    open_key,
    seal_key,
)

CONTEXT = UpdateContext("run-1", 3, "hospital-a", "0123abcd", "aa" * 32, "bb" * 32)
PRIVATE = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()


def test_the_golden_sealed_key_opens_to_zeros() -> None:
    sealed = bytes.fromhex(
        "abcab0ed01f6262e5938c2fa71d28ffd1503ba6e5ca446186c896319389ee974"
        "4a3673d4d6ecc48d1a2a4c0f295dc88e956255080a6d87c4f741a521235d016f3f7c8b662c7f67c5bc1b46731f5dc064"
    )
    assert open_key(PRIVATE, sealed, b"fedmq mask v1|run|3|hospital-a") == bytes(32)


# RFC 9180, appendix A.1.1: base mode of DHKEM(X25519, HKDF-SHA256), HKDF-SHA256. It has AES-128-GCM and ours is
# AES-256-GCM, so the key schedule of section 5.1 is done here: first that of the vector, then ours from its secret.
RFC_INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
RFC_PRIVATE = bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
RFC_ENC = bytes.fromhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431")
RFC_SHARED_SECRET = bytes.fromhex("fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc")
RFC_KEY, RFC_NONCE = bytes.fromhex("4531685d41d65f03dc48f6b8302c05b0"), bytes.fromhex("56d890e5accaaf011cff4b7d")


def key_schedule(*, aead_id: int, key_bytes: int) -> tuple[bytes, bytes]:
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x20, 1, aead_id))

    def extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")

    def expand(prk: bytes, label: bytes, info: bytes, size: int) -> bytes:
        labeled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
        return hmac.digest(prk, labeled + b"\x01", "sha256")[:size]

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", RFC_INFO)
    secret = extract(RFC_SHARED_SECRET, b"secret", b"")
    return expand(secret, b"key", context, key_bytes), expand(secret, b"base_nonce", context, 12)


def test_what_is_sealed_as_rfc_9180_says_opens() -> None:
    assert key_schedule(aead_id=1, key_bytes=16) == (RFC_KEY, RFC_NONCE)
    key, nonce = key_schedule(aead_id=2, key_bytes=32)
    content = b"a body key of exactly 32 bytes ."
    sealed = RFC_ENC + AESGCM(key).encrypt(nonce, content, b"")
    assert open_key(X25519PrivateKey.from_private_bytes(RFC_PRIVATE), sealed, RFC_INFO) == content


def test_a_sealed_key_opens_for_its_own_update_alone() -> None:
    body_key, sealed = seal_key(PUBLIC, CONTEXT.info)
    assert (len(body_key), len(sealed)) == (32, SEALED_KEY_BYTES)
    assert open_key(PRIVATE, sealed, CONTEXT.info) == body_key
    others = [
        replace(CONTEXT, run_id="run-2"),
        replace(CONTEXT, round=4),
        replace(CONTEXT, worker="hospital-b"),
        replace(CONTEXT, instance="0123abce"),
        replace(CONTEXT, model_sha256="ab" * 32),
        replace(CONTEXT, specs_sha256="ba" * 32),
    ]
    for other in others:
        with pytest.raises(UnfitMessage, match="does not open"):
            open_key(PRIVATE, sealed, other.info)
    with pytest.raises(UnfitMessage, match="does not open"):
        open_key(X25519PrivateKey.generate(), sealed, CONTEXT.info)


def test_the_context_s_encoding_is_unambiguous() -> None:
    assert replace(CONTEXT, run_id="ru", worker="nhospital-a").info != replace(CONTEXT, run_id="run").info
    assert CONTEXT.info == (
        b"\0\x0ffedmq update v1\0\x05run-1\0\x013\0\x0ahospital-a\0\x080123abcd"
        + (b"\0\x40" + b"aa" * 32)
        + (b"\0\x40" + b"bb" * 32)
    )


def test_two_sealings_have_nothing_in_common() -> None:
    (key, sealed), (other_key, other_sealed) = seal_key(PUBLIC, CONTEXT.info), seal_key(PUBLIC, CONTEXT.info)
    assert key != other_key
    assert sealed[:32] != other_sealed[:32]
    assert sealed[32:] != other_sealed[32:]


def test_every_flipped_bit_of_a_sealed_key_is_refused() -> None:
    _, sealed = seal_key(PUBLIC, CONTEXT.info)
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit == 255:  # X25519 ignores the highest bit of a public key; HPKE does not, it hashes it
            assert flipped[31] != sealed[31]
        with pytest.raises(UnfitMessage):
            open_key(PRIVATE, flipped, CONTEXT.info)


@pytest.mark.parametrize("sealed", [b"", bytes(79), bytes(80), bytes(81)])
def test_a_sealed_key_of_another_size_or_of_zeros_is_refused(sealed: bytes) -> None:
    with pytest.raises(UnfitMessage):
        open_key(PRIVATE, sealed, CONTEXT.info)


def test_nothing_is_sealed_to_a_key_that_keeps_no_secret() -> None:
    with pytest.raises(IdentityError, match="keeps no secret"):
        seal_key(bytes(32), CONTEXT.info)


def sealed_parts(parts: list[bytes], body_key: bytes = bytes(32)) -> list[bytes]:
    sealer = Sealer(body_key, CONTEXT.info)
    return [sealer.part(index, index == len(parts) - 1, part) for index, part in enumerate(parts)]


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=5))
def test_sealed_parts_open_to_what_they_were(parts: list[bytes]) -> None:
    opener = Opener(bytes(32), CONTEXT.info)
    sealed = sealed_parts(parts)
    assert [len(part) for part in sealed] == [len(part) + TAG_BYTES for part in parts]
    opened = [opener.part(index, index == len(parts) - 1, part) for index, part in enumerate(sealed)]
    assert opened == parts


def test_a_part_is_as_the_layout_says() -> None:
    bound_to = hashlib.sha256(CONTEXT.info).digest()
    expected = AESGCM(bytes(32)).encrypt((1).to_bytes(12, "big"), b"two", bound_to + b"\0\0\0\1\1")
    assert sealed_parts([b"one", b"two"])[1] == expected


def test_parts_that_are_exchanged_cut_off_or_of_another_body_are_refused() -> None:
    first, second, last = sealed_parts([b"one", b"two", b"end"])
    opener = Opener(bytes(32), CONTEXT.info)
    for index, is_last, part in [
        (0, False, second),
        (1, True, second),  # the body cut off after it
        (2, False, last),
        (0, False, first[:-1]),
        (0, False, first[:8]),
        (0, False, bytes([first[0] ^ 1]) + first[1:]),
    ]:
        with pytest.raises(UnfitMessage, match=f"part {index} of the sealed body"):
            opener.part(index, is_last, part)
    with pytest.raises(UnfitMessage):
        Opener(bytes(32), replace(CONTEXT, round=4).info).part(0, False, first)
    with pytest.raises(UnfitMessage):
        Opener(b"\1" * 32, CONTEXT.info).part(0, False, first)


def test_no_index_is_sealed_twice_with_one_key() -> None:
    sealer = Sealer(bytes(32), CONTEXT.info)
    sealer.part(0, False, b"one")
    for index in (0, 2):
        with pytest.raises(ValueError, match="nonce"):
            sealer.part(index, False, b"other")


SEED = SealedSeed(
    run_id="run-1",
    round=3,
    worker="hospital-a",
    instance="0123abcd",
    model_sha256="aa" * 32,
    masked_sha256="bb" * 32,
    keeper="ethics",
    num_words=4,
    num_halves=0,
    min_sites=3,
    sealed="00" * 80,
)


def test_a_mask_s_seed_opens_for_its_own_mask_and_its_own_keeper_alone() -> None:
    seed = bytes(range(32))
    sealed = SEED.model_copy(update={"sealed": seal_seed(seed, PUBLIC, SEED.context)})
    keeper = Sealing(private=[X25519PrivateKey.generate(), PRIVATE])
    assert keeper.open_seed(sealed) == seed
    changes = {"run_id": "run-2", "round": 4, "worker": "hospital-b", "instance": "0123abce", "keeper": "other"}
    for name, value in (changes | {"model_sha256": "bb" * 32, "masked_sha256": "aa" * 32}).items():
        with pytest.raises(UnfitMessage, match="seed does not open"):
            keeper.open_seed(sealed.model_copy(update={name: value}))
    for private in ([X25519PrivateKey.generate()], []):
        with pytest.raises(UnfitMessage, match="seed does not open"):
            Sealing(private=private).open_seed(sealed)


def test_a_seed_of_another_size_does_not_count_and_none_is_sealed_to_a_key_that_keeps_no_secret() -> None:
    short = SEED.model_copy(update={"sealed": seal_seed(bytes(31), PUBLIC, SEED.context).ljust(160, "0")})
    with pytest.raises(UnfitMessage, match="seed does not open"):
        Sealing(private=[PRIVATE]).open_seed(short)
    with pytest.raises(IdentityError, match="keeps no secret"):
        seal_seed(bytes(32), bytes(32), SEED.context)
