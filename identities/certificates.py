"""Certificates, by which a site admits workers of its own for a while, without asking anybody. The layout, version 1:

    offset  size  what
    0       1     version: 1
    1       8     id of the site's signing key
    9       32    the worker's public Ed25519 key
    41      8     valid from, Unix time in seconds, unsigned, little-endian
    49      8     valid until, likewise
    57      1     length n of the worker's name
    58      n     the worker's name: that of the site, or that and "-" and more
    58+n    64    the site's Ed25519 signature over b"fedmq certificate|" and all before it

In a file (`NAME.cert`) it is text, in hex.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from broker.wire import KEY_ID_BYTES, SIGNATURE_BYTES, Buffer
from console import ForgedMessage, IdentityError
from identities.files import read_text, write_whole
from identities.private_keys import PrivateKeys
from identities.public_keys import WORKER_NAME, PublicKeys, key_id_of, validated

_VERSION = 1
_LABEL = b"fedmq certificate|"
_KEY_BYTES = 32
_TIME_BYTES = 8
_FIXED_BYTES = 1 + KEY_ID_BYTES + _KEY_BYTES + 2 * _TIME_BYTES + 1
CLOCK_TOLERANCE_S = 300
"""A certificate is valid from this long before it is made: clocks of two machines need not agree better."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A site's statement that a key belongs to one of its own workers."""

    site_key_id: bytes
    worker: str
    worker_key: bytes
    valid_from: int
    """Unix time in seconds."""
    valid_until: int
    signature: bytes = b""

    @classmethod
    def parse(cls, packed: Buffer) -> Self:
        """From the layout above. A ForgedMessage if it is not that; nothing is verified yet."""
        data = bytes(packed)
        if len(data) <= _FIXED_BYTES + SIGNATURE_BYTES or data[0] != _VERSION:
            raise ForgedMessage("the certificate is cut off, or of a version that this fedmq does not read")
        name = data[_FIXED_BYTES:-SIGNATURE_BYTES]
        if len(name) != data[_FIXED_BYTES - 1] or not WORKER_NAME.fullmatch(name.decode("latin-1")):
            raise ForgedMessage("the certificate has no valid name of a worker")
        times = 1 + KEY_ID_BYTES + _KEY_BYTES
        return cls(
            site_key_id=data[1 : 1 + KEY_ID_BYTES],
            worker=name.decode("ascii"),
            worker_key=data[1 + KEY_ID_BYTES : times],
            valid_from=int.from_bytes(data[times : times + _TIME_BYTES], "little"),
            valid_until=int.from_bytes(data[times + _TIME_BYTES : times + 2 * _TIME_BYTES], "little"),
            signature=data[-SIGNATURE_BYTES:],
        )

    @classmethod
    def issue(cls, site: PrivateKeys, worker: PublicKeys, *, now: float, days: float) -> Self:
        """Signed by the site's key. An IdentityError if the site may not admit this worker."""
        if site.public.role != "worker":
            raise IdentityError(
                f"a certificate is signed with a site's key, and this is that of {site.public.role} {site.public.name}"
            )
        if worker.role != "worker" or not is_of_site(worker.name, site.public.name):
            raise IdentityError(
                f"site {site.public.name} can admit workers named {site.public.name} or {site.public.name}-…,"
                f" not {worker.role} {worker.name}"
            )
        unsigned = cls(
            site_key_id=site.public.key_id,
            worker=worker.name,
            worker_key=bytes.fromhex(worker.signing_key),
            valid_from=max(0, int(now) - CLOCK_TOLERANCE_S),
            valid_until=int(now + days * 86400),
        )
        return replace(unsigned, signature=site.signing.sign(unsigned.signed_text))

    @property
    def signed_text(self) -> bytes:
        return _LABEL + self._content

    @property
    def packed(self) -> bytes:
        """What ``parse`` takes, at most 186 bytes."""
        return self._content + self.signature

    @property
    def _content(self) -> bytes:
        times = b"".join(time.to_bytes(_TIME_BYTES, "little") for time in (self.valid_from, self.valid_until))
        name = self.worker.encode("ascii")
        return b"".join((bytes([_VERSION]), self.site_key_id, self.worker_key, times, bytes([len(name)]), name))

    @property
    def key_id(self) -> bytes:
        """The id of the worker's key."""
        return key_id_of(self.worker_key)

    def verify(self, site: str, site_key: Ed25519PublicKey) -> None:
        """A ForgedMessage if this site did not sign it, or may not admit a worker of this name."""
        try:
            site_key.verify(self.signature, self.signed_text)
        except InvalidSignature:
            raise ForgedMessage(f"the certificate of {self.worker} is not signed by site {site}") from None
        if not is_of_site(self.worker, site):
            raise ForgedMessage(f"site {site} may not admit a worker named {self.worker}")

    def check_time(self, now: float) -> None:
        """A ForgedMessage if it is not valid now (Unix time in seconds)."""
        if now > self.valid_until:
            raise ForgedMessage(f"the certificate of {self.worker} expired {moment(self.valid_until)}")
        if now < self.valid_from:
            raise ForgedMessage(f"the certificate of {self.worker} is valid only from {moment(self.valid_from)}")

    @property
    def validity(self) -> str:
        """From when until when, as people read it."""
        return f"from {moment(self.valid_from)} until {moment(self.valid_until)}"

    def save(self, path: Path) -> None:
        head = f"# certificate of worker {self.worker}, valid until {moment(self.valid_until)}\n"
        write_whole(path, f"{head}certificate: '{self.packed.hex()}'\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file that ``save`` wrote. An IdentityError if it is none."""
        text = validated(_CertificateFile, read_text(path), str(path)).certificate
        try:
            return cls.parse(bytes.fromhex(text))
        except ForgedMessage as error:
            raise IdentityError(f"{path}: {error}") from error


class _CertificateFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    certificate: Annotated[StrictStr, Field(pattern=r"^([0-9a-f]{2}){1,256}$")]


def is_of_site(worker: str, site: str) -> bool:
    """Whether a worker of this name can be one of this site."""
    return worker == site or worker.startswith(f"{site}-")


def moment(unix_time: int) -> str:
    """As people read it, in UTC."""
    try:
        return f"{datetime.fromtimestamp(unix_time, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):  # a time beyond the year 9999
        return f"{unix_time} s after 1970"
