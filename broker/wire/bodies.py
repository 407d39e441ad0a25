"""A body on its way: which parts it travels in, what the header's digest is over, and how each part is checked.

In clear, a part is a piece of the tensors' bytes, or with zstd one frame of them, and the digest is over these bytes.
Sealed, a part is that again, encrypted; the digest is then over the parts as they travel, since the digest of what is
inside would let anyone confirm a guess of it. A body in its own message has one part.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from broker.wire.buffers import Buffer
from broker.wire.messages import Tensors
from broker.wire.specs import BodyDigest, Digest, DigestFunction, Specs
from broker.wire.zstd import compressed, decompressed
from console import DamagedBody, UnfitMessage

SEAL_BYTES = 16
"""By which a sealed part is longer."""


class Seal(Protocol):
    """Encrypts the parts of one body, or decrypts them again."""

    def part(self, index: int, is_last: bool, data: Buffer) -> bytes:
        """The other form of this part, counted from 0."""
        ...


class Outgoing:
    """A body that is sent: ``num_bytes`` of tensors with these specs. ``digest`` holds once all parts are out."""

    def __init__(
        self,
        specs: Specs,
        num_bytes: int,
        *,
        function: DigestFunction = "sha256",
        zstd: int = 0,
        seal: Seal | None = None,
    ) -> None:
        self._digest, self._num_bytes = Digest(specs, function), num_bytes
        self._zstd, self._seal = zstd, seal

    def parts(self, parts: Iterable[Buffer]) -> Iterator[bytes]:
        """What travels of each part, one after the other."""
        num_out = 0
        for index, part in enumerate(parts):
            num_out += len(part)
            if self._seal is None:
                self._digest.add(part)  # while the part before is on its way
            form = compressed(part, self._zstd)
            if self._seal is not None:
                form = self._seal.part(index, num_out == self._num_bytes, form)
                self._digest.add(form)
            yield form

    def whole(self, pieces: Iterable[Buffer]) -> tuple[Buffer, ...]:
        """What travels of a body that is one part, in its message: in clear, these very pieces."""
        if self._zstd or self._seal is not None:
            return tuple(self.parts([b"".join(pieces)]))
        return tuple(self._digest.of(pieces))

    @property
    def digest(self) -> BodyDigest:
        return self._digest.told()


class Incoming:
    """A body that is received, part by part, and checked against the head that announced it."""

    def __init__(self, head: Tensors, *, are_zstd: bool = False, seal: Seal | None = None) -> None:
        self._head, self._are_zstd, self._seal = head, are_zstd, seal
        self._part_bytes = head.blob.part_bytes if head.blob else head.num_bytes
        self._digest = Digest(head.tensors, head.digest.function)
        self._num_taken = self._offset = 0

    @property
    def is_complete(self) -> bool:
        return self._num_taken > 0 and self._offset == self._head.num_bytes

    def take(self, part: Buffer) -> tuple[int, Buffer]:
        """(offset, tensors' bytes) of the next part.

        A DamagedBody if it is not of the announced size, or if, with the last one, the digest is another.
        """
        size = min(self._part_bytes, self._head.num_bytes - self._offset)
        is_last = self._offset + size == self._head.num_bytes
        try:
            piece = self._content(part, size, is_last=is_last)
        except UnfitMessage as error:
            raise DamagedBody(str(error)) from error
        if is_last and self._digest.told() != self._head.digest:
            raise DamagedBody("its body does not match its digest")
        offset, self._offset = self._offset, self._offset + size
        self._num_taken += 1
        return offset, piece

    def _content(self, part: Buffer, size: int, *, is_last: bool) -> Buffer:
        if self._seal is not None:
            self._check_size(len(part), size + SEAL_BYTES)
            self._digest.add(part)
            part = self._seal.part(self._num_taken, is_last, part)
        piece = decompressed(part, size) if self._are_zstd else part
        if len(piece) != size:
            raise UnfitMessage(f"its body has a part of {len(piece)} bytes where {size} were announced")
        if self._seal is None:
            self._digest.add(piece)
        return piece

    def _check_size(self, given: int, announced: int) -> None:
        """Before anything is decrypted; with zstd, only the frame says what is in it."""
        if not self._are_zstd and given != announced:
            raise UnfitMessage(f"its body has a part of {given} bytes where {announced} were announced")
