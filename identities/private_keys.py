"""Private keys: made where they are used, kept as raw 32 bytes in files that only their owner reads."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from console import IdentityError, read_secret
from identities.public_keys import OPENING_ROLES, WORKER_NAME, KeyRole, PublicKeys

_SIGNING, _OPENING, _PUBLIC = ".key", ".opening.key", ".pub"


@dataclass(frozen=True, slots=True)
class PrivateKeys:
    """What one party signs with and, if its role has it, opens with."""

    public: PublicKeys
    signing: Ed25519PrivateKey = field(repr=False)
    opening: X25519PrivateKey | None = field(default=None, repr=False)

    @classmethod
    def generate(cls, role: KeyRole, name: str) -> Self:
        opening = X25519PrivateKey.generate() if role in OPENING_ROLES else None
        return cls.of(role, name, Ed25519PrivateKey.generate(), opening)

    @classmethod
    def of(cls, role: KeyRole, name: str, signing: Ed25519PrivateKey, opening: X25519PrivateKey | None = None) -> Self:
        """With the public part that belongs to these keys. An IdentityError if nobody can have this name."""
        if not WORKER_NAME.fullmatch(name):
            raise IdentityError(f"{name!r} is no name; expected 1 to 64 letters, digits, '-' and '_'")
        public = PublicKeys(
            role=role,
            name=name,
            signing_key=signing.public_key().public_bytes_raw().hex(),
            opening_key=opening.public_key().public_bytes_raw().hex() if opening else None,
        )
        return cls(public, signing, opening)

    def save(self, folder: Path) -> Path:
        """Writes `NAME.key` (and `NAME.opening.key`) with mode 0600, and `NAME.pub`; returns the path of the first.

        Nothing is ever overwritten: a file that is there is an IdentityError.
        """
        name = self.public.name
        secrets = {folder / f"{name}{_SIGNING}": self.signing.private_bytes_raw()}
        if self.opening:
            secrets[folder / f"{name}{_OPENING}"] = self.opening.private_bytes_raw()
        public = folder / f"{name}{_PUBLIC}"
        there = [path for path in (*secrets, public) if path.exists()]
        if there:
            raise IdentityError(
                f"{there[0]} is there already, and a key is never overwritten;"
                " take another name, or move the old files away"
            )
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path, content in secrets.items():
                _write_new(path, content, mode=0o600)
            _write_new(public, self.public.text.encode(), mode=0o644)
        except OSError as error:
            raise IdentityError(f"cannot write {error.filename or folder}: {error.strerror}") from error
        return folder / f"{name}{_SIGNING}"

    @classmethod
    def read(cls, path: Path) -> Self:
        """From `NAME.key`, with what `save` wrote beside it. An IdentityError if they do not belong together."""
        if not path.name.endswith(_SIGNING) or path.name.endswith(_OPENING):
            raise IdentityError(f"{path} is not a signing key's file; expected NAME{_SIGNING}, as fl-keys new makes it")
        stem = path.name.removesuffix(_SIGNING)
        public = PublicKeys.read(path.with_name(stem + _PUBLIC))
        signing = Ed25519PrivateKey.from_private_bytes(read_secret(path))
        opening = read_opening_key(path.with_name(stem + _OPENING)) if public.role in OPENING_ROLES else None
        keys = cls.of(public.role, public.name, signing, opening)
        if keys.public != public:
            raise IdentityError(f"{path.with_name(stem + _PUBLIC)} is not the public part of {path}")
        return keys


def read_opening_key(path: Path) -> X25519PrivateKey:
    """From `NAME.opening.key`: for processes that open what is sealed to another's name, such as partials."""
    return X25519PrivateKey.from_private_bytes(read_secret(path))


def _write_new(path: Path, content: bytes, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
