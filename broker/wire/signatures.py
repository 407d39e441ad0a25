"""Who a message is from: the text that is signed, the trailer with the signature, and the seam to whoever checks it.

    offset  size  what is signed
    0       8     b"fedmq/2|"
    8       k+1   the message's kind, and b"|"
    9+k     2     length n of the certificate, unsigned, little-endian; 0 without
    11+k    n     the certificate, as in the trailer
    11+k+n  h     the header, exactly the bytes that travel

    offset  size  the trailer
    0       8     id of the signing key: the first bytes of the SHA-256 of its public key
    8       64    the Ed25519 signature
    72      n     the certificate by which a site admits this key; empty if the key is on the roster itself

The header names the digest of the payload, so all of a message is signed. The certificate is part of the text because
it says whose key it is: without it, another site could certify the same key under a name of its own, put that
certificate in place, and be taken for the sender of somebody else's message.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from broker.wire.buffers import Buffer
from console import ForgedMessage

KEY_ID_BYTES = 8
SIGNATURE_BYTES = 64
MAX_CERTIFICATE_BYTES = 256
MAX_TRAILER_BYTES = KEY_ID_BYTES + SIGNATURE_BYTES + MAX_CERTIFICATE_BYTES
_LABEL = b"fedmq/2"

Role = Literal["worker", "aggregator", "partial", "keeper", "operator"]


@dataclass(frozen=True, slots=True)
class Signer:
    """Who a message is from, as its signature shows."""

    role: Role
    name: str
    keys: tuple[bytes, ...] = field(default=(), compare=False)
    """The ids of the keys that show it: the one that signed and, if a certificate admits that one, its site's."""

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


class Trust(Protocol):
    """How a process signs what it sends, and knows who sent what it receives. May be used by several threads."""

    def sign(self, kind: str, header: Buffer) -> bytes:
        """The trailer of a message with this header; empty if messages are not signed."""
        ...

    def signer_of(self, kind: str, header: Buffer, trailer: Buffer) -> Signer | None:
        """Who signed these very bytes; None where senders are believed.

        A ForgedMessage if nobody did who may sign such a message.
        """
        ...


class Believing:
    """No roster: nothing is signed, and every sender is believed."""

    def sign(self, kind: str, header: Buffer) -> bytes:
        return b""

    def signer_of(self, kind: str, header: Buffer, trailer: Buffer) -> Signer | None:
        return None


@dataclass(frozen=True, slots=True)
class Trailer:
    """A signature, and by whose key it is."""

    key_id: bytes
    signature: bytes
    certificate: bytes = b""

    @classmethod
    def parse(cls, trailer: Buffer) -> Self:
        """The parts of a trailer. A ForgedMessage if it is none, or empty."""
        view = memoryview(trailer)
        if not view:
            raise ForgedMessage("the message is not signed, and the roster asks for signatures")
        if not KEY_ID_BYTES + SIGNATURE_BYTES <= len(view) <= MAX_TRAILER_BYTES:
            raise ForgedMessage(
                f"a signature's trailer has {KEY_ID_BYTES + SIGNATURE_BYTES} to {MAX_TRAILER_BYTES} bytes,"
                f" not {len(view)}"
            )
        end = KEY_ID_BYTES + SIGNATURE_BYTES
        return cls(bytes(view[:KEY_ID_BYTES]), bytes(view[KEY_ID_BYTES:end]), bytes(view[end:]))

    @property
    def packed(self) -> bytes:
        """What ``parse`` takes."""
        return self.key_id + self.signature + self.certificate


def signed_text(kind: str, header: Buffer, certificate: Buffer = b"") -> bytes:
    """What the signature of a message is over."""
    start = b"|".join((_LABEL, kind.encode(), len(certificate).to_bytes(2, "little")))
    return b"".join((start, certificate, header))
