"""Sealing: an update that only the holder of the roster's opening key reads.

Each encoding of an update has a fresh AES-256 key of its own, sealed to the opening key with HPKE (RFC 9180, base mode:
DHKEM X25519, HKDF-SHA256, AES-256-GCM): 32 bytes of the sender's ephemeral key, 32 of the sealed key, 16 of the tag.
The ``info`` of HPKE is all of the update's context, so that a sealed key copied into another update does not open.

The body is sealed part by part with AES-256-GCM: the nonce is the part's index, 12 bytes, big-endian, and the
associated data are SHA-256(info), the index, 4 bytes, big-endian, and one byte, 1 for the last part and 0 for others.
So parts cannot be exchanged, left out or cut off unnoticed. A sealed part is 16 bytes longer than its content.

The seed of a mask is sealed in the same way to one keeper, with ``info`` that says which mask it is for: a seed that is
copied to another round, worker, model, body or keeper does not open.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from broker.wire import Buffer, SealedSeed, UpdateHead, kept
from console import IdentityError, UnfitMessage

SEALED_KEY_BYTES = 80
TAG_BYTES = 16
"""By which a sealed part is longer than its content."""

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_LABEL, _SEED_LABEL = b"fedmq update v1", b"fedmq mask v1"
_BODY_KEY_BYTES = _SEED_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class UpdateContext:
    """Which update a key is for: the one of these, and no other."""

    run_id: str
    round: int
    worker: str
    instance: str
    model_sha256: str
    """Hex digest of the model it was trained from."""
    specs_sha256: str
    """Hex digest of the specs of the update's tensors, as they are packed in its header."""

    @classmethod
    def of(cls, head: UpdateHead) -> "UpdateContext":
        """That of the update with this header."""
        return cls(
            run_id=head.run_id,
            round=head.round,
            worker=head.worker,
            instance=head.instance,
            model_sha256=head.model_sha256 or "",
            specs_sha256=kept(head.tensors).sha256,
        )

    @property
    def info(self) -> bytes:
        """For HPKE: the label and each field, with its length before it (2 bytes, big-endian)."""
        values = (self.run_id, str(self.round), self.worker, self.instance, self.model_sha256, self.specs_sha256)
        return _info(_LABEL, values)


def _info(label: bytes, values: Sequence[str]) -> bytes:
    fields = (label, *map(str.encode, values))
    return b"".join(len(field).to_bytes(2, "big") + field for field in fields)


def seal_key(opening_key: bytes, info: bytes) -> tuple[bytes, bytes]:
    """A fresh body key (32 bytes), and the same sealed to this public X25519 key (80 bytes).

    It is for one encoding of one update, and never for a second.
    """
    body_key = secrets.token_bytes(_BODY_KEY_BYTES)
    try:
        return body_key, _SUITE.encrypt(body_key, X25519PublicKey.from_public_bytes(opening_key), info=info)
    except ValueError as error:
        raise IdentityError("the opening key on the roster keeps no secret; the aggregator makes another") from error


def seal_seed(seed: bytes, opening_key: bytes, context: Sequence[str]) -> str:
    """A mask's seed, sealed to a keeper's public X25519 key for the mask with this ``SealedSeed.context``; in hex."""
    info = _info(_SEED_LABEL, context)
    try:
        return _SUITE.encrypt(seed, X25519PublicKey.from_public_bytes(opening_key), info=info).hex()
    except ValueError as error:
        raise IdentityError("a keeper's opening key on the roster keeps no secret; it makes another") from error


def open_key(private: X25519PrivateKey, sealed: Buffer, info: bytes) -> bytes:
    """The body key. An UnfitMessage if it was sealed to another key, or for another update than this ``info`` says."""
    if len(sealed) != SEALED_KEY_BYTES:
        raise UnfitMessage(f"the sealed key has {len(sealed)} bytes; expected {SEALED_KEY_BYTES}")
    try:
        return _SUITE.decrypt(sealed, private, info=info)
    except (InvalidTag, ValueError):
        raise UnfitMessage(
            "the update's key does not open: it was sealed to another key than this aggregator's,"
            " or for another run, round, worker or model"
        ) from None


class Sealing:
    """Who seals to the roster's opening key, and who opens with ``private`` keys, any of which may be that key's."""

    def __init__(
        self, opening_key: Callable[[], bytes | None] = lambda: None, private: Sequence[X25519PrivateKey] = ()
    ) -> None:
        self._opening_key, self._private = opening_key, private

    def seal(self, context: UpdateContext) -> tuple["Sealer", str]:
        """What seals one encoding of this update, and its key, sealed, in hex. An IdentityError if there is no key."""
        opening_key = self._opening_key()
        if opening_key is None:
            raise IdentityError("this run asks for sealed updates, but no roster names a key to seal them to")
        info = context.info
        key, sealed = seal_key(opening_key, info)
        return Sealer(key, info), sealed.hex()

    def unseal(self, context: UpdateContext, sealed: str) -> "Opener":
        """What opens an update with this sealed key, in hex. An UnfitMessage if none of our keys does."""
        problem = UnfitMessage("its body is sealed, and there is no key here that opens it")
        info = context.info
        for private in self._private:
            try:
                return Opener(open_key(private, bytes.fromhex(sealed), info), info)
            except UnfitMessage as error:
                problem = error
        raise problem

    def open_seed(self, sealed: SealedSeed) -> bytes:
        """The 32 bytes of a mask's seed, if it was sealed to one of our keys. An UnfitMessage if none opens it."""
        info = _info(_SEED_LABEL, sealed.context)
        for private in self._private:
            try:
                seed = _SUITE.decrypt(bytes.fromhex(sealed.sealed), private, info=info)
            except (InvalidTag, ValueError):
                continue
            if len(seed) == _SEED_BYTES:
                return seed
        raise UnfitMessage(
            "its seed does not open: it was sealed to another key than this keeper's, or for another update"
        )


class Sealer:
    """Seals the parts of one body, in order. Each index is used once: a body that is begun again has a new key."""

    def __init__(self, body_key: bytes, info: bytes) -> None:
        self._cipher, self._bound_to = AESGCM(body_key), hashlib.sha256(info).digest()
        self._next = 0

    def part(self, index: int, is_last: bool, data: Buffer) -> bytes:
        """The sealed part, 16 bytes longer than ``data``. Parts come in order, counted from 0."""
        if index != self._next:
            raise ValueError(f"part {index} after part {self._next - 1}: a nonce would be used twice, or left out")
        self._next += 1
        return self._cipher.encrypt(_nonce(index), data, _bound(self._bound_to, index, is_last))


class Opener:
    """Opens the parts of one body, in any order."""

    def __init__(self, body_key: bytes, info: bytes) -> None:
        self._cipher, self._bound_to = AESGCM(body_key), hashlib.sha256(info).digest()

    def part(self, index: int, is_last: bool, sealed: Buffer) -> bytes:
        """The content. An UnfitMessage if it is not what was sealed as this part."""
        if len(sealed) < TAG_BYTES:
            raise UnfitMessage(f"part {index} of the sealed body has {len(sealed)} bytes; a tag alone has {TAG_BYTES}")
        try:
            return self._cipher.decrypt(_nonce(index), sealed, _bound(self._bound_to, index, is_last))
        except InvalidTag:
            raise UnfitMessage(f"part {index} of the sealed body does not open: it is not what was sealed") from None


def _nonce(index: int) -> bytes:
    return index.to_bytes(_NONCE_BYTES, "big")


def _bound(bound_to: bytes, index: int, is_last: bool) -> bytes:
    return bound_to + index.to_bytes(4, "big") + bytes([is_last])
