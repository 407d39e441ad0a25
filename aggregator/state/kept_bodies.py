"""Bodies of updates folded in the open round, kept as files, so that an update can be taken out of the sum again.

bodies/2-00013-4.body             what travelled, opened and without zstd; the numbers: epoch, round, serial number

A name is used once. A file counts from the commit on that names it, with its digest. It is not synced: a kill loses
nothing, and after a power cut a file that is not what was written is known by its digest; the round is then done again
if its update has to be taken out, which is rarer than every commit would be slower.
"""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from aggregator.state.checkpoint import not_written
from broker.wire import Buffer
from console import DamagedFile

_PIECE_BYTES = 2**20


class KeptBodies:
    """The folder ``bodies`` of a state directory, as one epoch of its aggregator uses it."""

    def __init__(self, folder: Path, *, epoch: int) -> None:
        self._folder, self._epoch = folder / "bodies", epoch
        self._num_written = 0

    def has_room(self, num_bytes: int) -> bool:
        """Whether so many bytes are free on its disk."""
        return shutil.disk_usage(self._folder.parent).free >= num_bytes

    def write(self, round_number: int, pieces: Iterable[Buffer]) -> tuple[str, str]:
        """Writes a body; returns the name of its file and its digest."""
        name = f"{self._epoch}-{round_number:05d}-{self._num_written}.body"
        path, sha256 = self._folder / name, hashlib.sha256()
        self._num_written += 1
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with open(path, "xb", opener=_private) as file:
                for piece in pieces:
                    sha256.update(piece)
                    file.write(piece)
        except OSError as error:
            raise not_written(path, error.strerror) from error
        return name, sha256.hexdigest()

    def check(self, name: str, sha256: str) -> None:
        """A DamagedFile unless the file has the body that was written."""
        found = hashlib.sha256()
        for _, piece in self.pieces(name):
            found.update(piece)
        if found.hexdigest() != sha256:
            raise DamagedFile(f"{self._folder / name} is damaged: its digest is not the one in the ledger")

    def pieces(self, name: str) -> Iterator[tuple[int, Buffer]]:
        """(offset, bytes) of a body from the first byte to the last. A piece is valid until the next one."""
        path, buffer, offset = self._folder / name, memoryview(bytearray(_PIECE_BYTES)), 0
        try:
            with path.open("rb") as file:
                while num_read := file.readinto(buffer):
                    yield offset, buffer[:num_read]
                    offset += num_read
        except OSError as error:
            raise DamagedFile(f"{path} cannot be read: {error.strerror}") from error

    def remove(self, names: Iterable[str]) -> None:
        """Removes these files."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def remove_all(self, *, but: Collection[str] = ()) -> None:
        """Removes the other files, except those of a later epoch: they are another aggregator's."""
        names = [path.name for path in self._folder.glob("*.body") if int(path.name.split("-")[0]) <= self._epoch]
        self.remove(name for name in names if name not in but)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
