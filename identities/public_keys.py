"""Public keys: what others may know of a key, and the text files (`NAME.pub`) in which people pass it on."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator

from broker.wire import KEY_ID_BYTES, WorkerName
from console import IdentityError
from identities.files import read_text

KeyRole = Literal["worker", "aggregator", "partial", "keeper", "operator", "admin"]
OPENING_ROLES: tuple[KeyRole, ...] = ("aggregator", "keeper")
"""Roles that others seal something to: they have a second key, which opens it."""

WORKER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What ``WorkerName`` allows, for names that are no part of a model."""

_GROUPS, _GROUP_DIGITS = 8, 4
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{_GROUP_DIGITS}}}(-[0-9a-f]{{{_GROUP_DIGITS}}}){{{_GROUPS - 1}}}")


def _that_can_be_sealed_to(key: str) -> str:
    """Some X25519 keys (the all-zero one, and others of small order) lead to a secret that everybody knows."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(key)))
    except ValueError as error:
        raise ValueError("this X25519 key keeps no secret; make another one") from error
    return key


SigningKeyText = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
"""A public Ed25519 key, 32 bytes in hex."""
OpeningKeyText = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$"), AfterValidator(_that_can_be_sealed_to)]
"""A public X25519 key, 32 bytes in hex."""
KeyIdText = Annotated[StrictStr, Field(pattern=rf"^[0-9a-f]{{{2 * KEY_ID_BYTES}}}$")]


def key_id_of(signing_key: bytes) -> bytes:
    """The id of a public signing key, 8 bytes: the beginning of its SHA-256."""
    return hashlib.sha256(signing_key).digest()[:KEY_ID_BYTES]


def fingerprint_of(*public_keys: bytes) -> str:
    """What people compare by voice: the first 128 bits of a SHA-256, as `9f3a-0c51-…`, eight groups.

    That of one signing key begins with its id.
    """
    digits = hashlib.sha256(b"".join(public_keys)).hexdigest()
    return "-".join(digits[start : start + _GROUP_DIGITS] for start in range(0, _GROUPS * _GROUP_DIGITS, _GROUP_DIGITS))


class PublicKeys(BaseModel):
    """Who somebody is to others: role, name and public keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: KeyRole
    name: WorkerName
    signing_key: SigningKeyText
    opening_key: OpeningKeyText | None = None

    @model_validator(mode="after")
    def _the_role_says_whether_something_is_opened(self) -> Self:
        if (self.role in OPENING_ROLES) != (self.opening_key is not None):
            raise ValueError(f"{' and '.join(OPENING_ROLES)} have an opening_key, and no other role has one")
        return self

    @property
    def key_id(self) -> bytes:
        return key_id_of(bytes.fromhex(self.signing_key))

    @property
    def fingerprint(self) -> str:
        """Of all its keys together."""
        return fingerprint_of(*(bytes.fromhex(key) for key in (self.signing_key, self.opening_key) if key))

    @property
    def text(self) -> str:
        """What `read` reads."""
        head = f"# public key of {self.role} {self.name}; fingerprint {self.fingerprint}\n"
        return head + yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file `NAME.pub`. An IdentityError if it is none."""
        return validated(cls, read_text(path), str(path))


def fingerprint_given(text: str) -> str:
    """The fingerprint that `--roster-key` means: it is one, or names a file `NAME.pub` with the admin's key.

    An IdentityError if it is neither.
    """
    plain = text.strip().lower().replace(" ", "-").replace(":", "-")
    if _FINGERPRINT.fullmatch(plain):
        return plain
    path = Path(text)
    if not path.is_file():
        raise IdentityError(
            f"{text!r} is neither a fingerprint ({_GROUPS} groups of {_GROUP_DIGITS} hex digits) nor a file;"
            " expected what `fl-keys show` prints of the admin's key, or its file admin.pub"
        )
    keys = PublicKeys.read(path)
    if keys.role != "admin":
        raise IdentityError(f"{path} is the key of {keys.role} {keys.name}; a roster is signed by an admin's key")
    return keys.fingerprint


M = TypeVar("M", bound=BaseModel)


def validated(kind: type[M], text: str, where: str) -> M:
    """The model that is written in this YAML. An IdentityError that names the first problem."""
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise IdentityError(f"{where} is not valid YAML") from error
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]).encode("unicode_escape").decode()
        problem = first["msg"].removeprefix("Value error, ")
        raise IdentityError(f"{where}: {place + ': ' if place else ''}{problem}") from error
