"""A body on its way out: in its message, or, if it is large, in a blob that is at the broker before the message is."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from broker.transport import Transport
from broker.wire import BlobRef, BodyDigest, Buffer, DigestFunction, Outgoing, Seal, Specs, cut
from console import Transferring, with_progress


@dataclass(frozen=True, slots=True)
class SentBody:
    """What a header says of a body, and the body itself if it is in the message."""

    payload: tuple[Buffer, ...]
    """In pieces, which may be views of what is sent: it is encoded before that changes."""
    blob: BlobRef | None
    digest: BodyDigest

    def header_fields(self) -> Mapping[str, Any]:
        """Its fields in a header."""
        return {"blob": self.blob, self.digest.function: self.digest.hex}


@dataclass(frozen=True, slots=True, kw_only=True)
class BodySender:
    """Sends bodies to where the messages go that name them."""

    transport: Transport
    inline_cap: int
    """Bytes up to which a body travels in its message."""
    part_bytes: int
    """Of a blob's parts."""
    function: DigestFunction = "sha256"
    """By which digests are taken."""
    on_event: Callable[[Transferring], None] = lambda event: None

    def send(
        self,
        specs: Specs,
        pieces: Iterable[Buffer],
        *,
        num_bytes: int,
        blob_name: str,
        what: str,
        zstd: int = 0,
        seal: Seal | None = None,
    ) -> SentBody:
        """A body of ``num_bytes`` of tensors with these specs. A large one is at the broker by then.

        ``blob_name`` is taken if it is free; ``what`` says in words what is sent. BlobLost if the blob was deleted
        meanwhile: then all of it has to be sent again, and sealed anew.
        """
        body = Outgoing(specs, num_bytes, function=self.function, zstd=zstd, seal=seal)
        if num_bytes <= self.inline_cap:
            return SentBody(body.whole(pieces), None, body.digest)
        parts = with_progress(
            cut(pieces, self.part_bytes),
            self.on_event,
            what=what,
            is_upload=True,
            total_bytes=num_bytes,
            size_of=len,
        )
        name = self.transport.write_blob(blob_name, body.parts(parts))
        return SentBody((), BlobRef(name=name, part_bytes=self.part_bytes), body.digest)
