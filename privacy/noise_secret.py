"""The secret that all noise of one place comes from: 32 bytes in a file of their own, made where they are used.

Whoever has it can take the noise off every sum that was published. It is never derived from a seed that is in a head.
"""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from console import SECRET_BYTES, IdentityError, read_secret
from console.durable import sync_folder


def noise_secret(path: Path) -> bytes:
    """The secret in a file of mode 0600, which is made first if there is none: whole, once, also by several at a time.

    An IdentityError if it cannot be made or read, or others can read it. What a kill leaves behind is a file beside it.
    """
    if not path.exists():
        try:
            _make(path)
        except OSError as error:
            raise IdentityError(f"cannot write {path}: {error.strerror}") from error
    return read_secret(path)


def fingerprint_of(secret: bytes) -> str:
    """16 hex digits by which a ledger tells whether a secret is still the one it began with; they say nothing of it."""
    return hashlib.sha256(b"fedmq noise secret\0" + secret).hexdigest()[:16]


def _make(path: Path) -> None:
    """Written and synced under another name, then linked: who finds the file finds all of it, and never another's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()
    sync_folder(path.parent)
