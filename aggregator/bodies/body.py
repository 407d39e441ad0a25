"""The whole body of a message, as often as it is asked for, of the announced size and digest."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from broker.wire import Buffer, Digest, Tensors, decompressed
from console import StateError, UnfitMessage

_PIECE_BYTES = 2**20
"""What is read from a file at a time: it stays in the processor's cache while it is added up."""


class Body(Protocol):
    """A whole body."""

    @property
    def num_blob_bytes(self) -> int:
        """The bytes that were read from a blob, with zstd as they travel."""

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        """(offset, bytes) from the first byte to the last, without zstd. A piece is valid until the next one.

        Raises UnfitMessage before the first piece if it is not what was announced.
        """

    def close(self) -> None:
        """Frees what it takes; there are no pieces any more."""


class InMessage:
    """A body that follows its header in the same message."""

    def __init__(self, head: Tensors, payload: Buffer, *, is_zstd: bool) -> None:
        self._head, self._payload, self._is_zstd = head, payload, is_zstd
        self.num_blob_bytes = 0

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        content = decompressed(self._payload, self._head.num_bytes) if self._is_zstd else self._payload
        digest = Digest(self._head.tensors)
        digest.add(content)
        _check(digest, self._head)
        yield 0, content

    def close(self) -> None:
        """Frees nothing: the message is not its own."""


class InFile:
    """A body that comes in parts, written into a file without a name in ``folder`` (None: the system's for such files).

    The file is gone with the process, however that ends.
    """

    def __init__(self, head: Tensors, *, is_zstd: bool, folder: Path | None) -> None:
        if head.blob is None:
            raise ValueError("its body is in the message")
        self._head, self._part_bytes, self._is_zstd = head, head.blob.part_bytes, is_zstd
        self._folder = folder
        self._digest = Digest(head.tensors)
        self._num_bytes = 0
        self.num_blob_bytes = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed in ``close``)
        except OSError as error:
            raise self._not_stored(error) from error

    @property
    def is_complete(self) -> bool:
        return self._num_bytes == self._head.num_bytes

    @property
    def num_bytes(self) -> int:
        """The bytes of it that are there, without zstd."""
        return self._num_bytes

    def add(self, part: Buffer) -> None:
        """Stores the next part. UnfitMessage if it is not of the announced size, or at the end not of the digest."""
        size = min(self._part_bytes, self._head.num_bytes - self._num_bytes)
        piece = decompressed(part, size) if self._is_zstd else part
        if len(piece) != size:
            raise UnfitMessage(f"its body has a part of {len(piece)} bytes where {size} were announced")
        self._digest.add(piece)
        self._write(piece)
        self._num_bytes += size
        self.num_blob_bytes += len(part)
        if self.is_complete:
            _check(self._digest, self._head)

    def _write(self, piece: Buffer) -> None:
        left = memoryview(piece)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._not_stored(error) from error

    def _not_stored(self, error: OSError) -> StateError:
        folder = self._folder or tempfile.gettempdir()
        return StateError(f"cannot store the body of an update in {folder}: {error.strerror}")

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        buffer = memoryview(bytearray(min(_PIECE_BYTES, self._num_bytes)))
        offset = 0
        while offset < self._num_bytes:
            num_read = os.preadv(self._file.fileno(), [buffer[: self._num_bytes - offset]], offset)
            if num_read % 8 and offset + num_read < self._num_bytes:
                num_read -= num_read % 8
            if num_read <= 0:
                raise StateError(f"the stored body of an update ends after {offset} of {self._num_bytes} bytes")
            yield offset, buffer[:num_read]
            offset += num_read

    def close(self) -> None:
        """Frees the disk."""
        self._file.close()


def _check(digest: Digest, head: Tensors) -> None:
    if digest.hex() != head.sha256:
        raise UnfitMessage("its body does not match its digest")
