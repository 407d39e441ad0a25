"""The whole body of a message, as often as it is asked for, of the announced size and digest."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from broker.wire import Buffer, Incoming, Seal, Tensors
from console import StateError
from console.durable import write_all

_PIECE_BYTES = 2**20
"""What is given of a body at a time: it stays in the processor's cache while it is added up."""


class Body(Protocol):
    """A whole body."""

    @property
    def num_blob_bytes(self) -> int:
        """The bytes that were read from a blob, with zstd as they travel."""

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        """(offset, bytes) from the first byte to the last, without zstd. A piece is valid until the next one.

        Raises UnfitMessage before the first piece if it is not what was announced.
        """

    def take_name(self, path: Path) -> bool:
        """Gives its file this name, under which it stays, and returns whether it could: not every body is in one.

        An OSError if the name is in use or there is no such folder.
        """

    def close(self) -> None:
        """Frees what it takes; there are no pieces any more."""


class InMessage:
    """A body that follows its header in the same message."""

    def __init__(self, head: Tensors, payload: Buffer, *, is_zstd: bool, seal: Seal | None = None) -> None:
        self._head, self._payload, self._is_zstd, self._seal = head, payload, is_zstd, seal
        self._opened: tuple[int, Buffer] | None = None
        """Its only piece, once it is checked and in clear: it may be asked for again, to be kept or taken out."""
        self.num_blob_bytes = 0

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        if self._opened is None:
            self._opened = Incoming(self._head, are_zstd=self._is_zstd, seal=self._seal).take(self._payload)
        yield self._opened

    def take_name(self, path: Path) -> bool:
        return False

    def close(self) -> None:
        self._opened = None  # the message is not its own


class ComingBody:
    """What a body that comes in parts has in memory and in a file alike."""

    def __init__(self, head: Tensors, *, is_zstd: bool, seal: Seal | None = None) -> None:
        if head.blob is None:
            raise ValueError("its body is in the message")
        self._incoming = Incoming(head, are_zstd=is_zstd, seal=seal)
        self.num_bytes = self.num_blob_bytes = 0
        """``num_bytes``: those of it that are there, without zstd."""

    @property
    def is_complete(self) -> bool:
        return self._incoming.is_complete

    def add(self, part: Buffer) -> None:
        """Stores the next part. UnfitMessage if it is not of the announced size, or at the end not of the digest."""
        offset, piece = self._incoming.take(part)
        self._store(offset, piece)
        self.num_bytes += len(piece)
        self.num_blob_bytes += len(part)

    def _store(self, offset: int, piece: Buffer) -> None:
        raise NotImplementedError

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        raise NotImplementedError

    def take_name(self, path: Path) -> bool:
        return False

    def close(self) -> None:
        raise NotImplementedError


class InMemory(ComingBody):
    """Parts that stay as they came."""

    def __init__(self, head: Tensors, *, is_zstd: bool, seal: Seal | None = None) -> None:
        super().__init__(head, is_zstd=is_zstd, seal=seal)
        self._pieces: list[tuple[int, memoryview]] = []

    def _store(self, offset: int, piece: Buffer) -> None:
        self._pieces.append((offset, memoryview(piece)))

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        for offset, piece in self._pieces:
            for begin in range(0, len(piece), _PIECE_BYTES):
                yield offset + begin, piece[begin : begin + _PIECE_BYTES]

    def close(self) -> None:
        self._pieces.clear()


class InFile(ComingBody):
    """Parts written into a file without a name in ``folder`` (None: the system's for such files).

    The file is gone with the process, however that ends, unless it is given a name.
    """

    def __init__(self, head: Tensors, *, is_zstd: bool, folder: Path | None, seal: Seal | None = None) -> None:
        super().__init__(head, is_zstd=is_zstd, seal=seal)
        self._folder = folder
        try:
            self._file = _nameless(folder)
        except OSError as error:
            raise self._not_stored(error) from error

    def _store(self, offset: int, piece: Buffer) -> None:
        try:
            write_all(self._file, piece)
        except OSError as error:
            raise self._not_stored(error) from error

    def _not_stored(self, error: OSError) -> StateError:
        folder = self._folder or tempfile.gettempdir()
        return StateError(f"cannot store the body of an update in {folder}: {error.strerror}")

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        buffer = memoryview(bytearray(min(_PIECE_BYTES, self.num_bytes)))
        offset = 0
        while offset < self.num_bytes:
            num_read = os.preadv(self._file.fileno(), [buffer[: self.num_bytes - offset]], offset)
            if num_read % 8 and offset + num_read < self.num_bytes:
                num_read -= num_read % 8
            if num_read <= 0:
                raise StateError(f"the stored body of an update ends after {offset} of {self.num_bytes} bytes")
            yield offset, buffer[:num_read]
            offset += num_read

    def take_name(self, path: Path) -> bool:
        descriptor = self._file.fileno()
        try:  # with a descriptor beside it, a link is made to what is open rather than to the link in /proc
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
        except FileExistsError:
            raise
        except OSError:  # a file system that has no files without a name, or another one than that of the path
            return False
        return True

    def close(self) -> None:
        """Frees the disk, unless it has a name."""
        self._file.close()


def _nameless(folder: Path | None) -> BinaryIO:
    """A new file that only this process has, and that can be given a name where the system has such files."""
    if folder is not None and hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):
            return open(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode=0o600), "r+b", buffering=0)
    return tempfile.TemporaryFile(dir=folder, buffering=0)
