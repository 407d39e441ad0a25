"""Bodies of updates folded in the open round, kept as files, so that an update can be taken out of the sum again.

bodies/2-00013-4.body             what travelled, opened and without zstd; the numbers: epoch, round, serial number

A name is used once. A file counts from the commit on that names it, with its digest by BLAKE3, which is the update's
own where it has that and travels in clear. A body that is in a file already only gets its name. It is not synced: a
kill loses nothing, and after a power cut a file that is not what was written is known by its digest; the round is then
done again if its update has to be taken out, which is rarer than every commit would be slower.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from aggregator.state.checkpoint import not_written
from broker.wire import Buffer, Digest, Specs
from console import DamagedFile
from console.durable import write_all

_PIECE_BYTES = 2**20


class KeptBodies:
    """The folder ``bodies`` of a state directory, as one epoch of its aggregator uses it, for bodies of these specs."""

    def __init__(self, folder: Path, specs: Specs, *, epoch: int) -> None:
        self._folder, self._specs, self._epoch = folder / "bodies", specs, epoch
        self._num_written = 0

    def has_room(self, num_bytes: int) -> bool:
        """Whether so many bytes are free on its disk."""
        return shutil.disk_usage(self._folder.parent).free >= num_bytes

    def write(
        self,
        round_number: int,
        pieces: Iterable[Buffer],
        *,
        blake3: str | None = None,
        take_name: Callable[[Path], bool] = lambda path: False,
    ) -> tuple[str, str]:
        """Keeps a body; returns the name of its file and its digest, which is ``blake3`` if that is known.

        ``take_name`` gives a file that has the body already its name, and returns whether it could.
        """
        name = f"{self._epoch}-{round_number:05d}-{self._num_written}.body"
        path, digest = self._folder / name, Digest(self._specs, "blake3")
        self._num_written += 1
        if blake3 is None:
            pieces = digest.of(pieces)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not take_name(path):
                with open(path, "xb", opener=_private) as file:
                    for piece in pieces:
                        write_all(file, piece)
            elif blake3 is None:
                deque(pieces, maxlen=0)
        except OSError as error:
            raise not_written(path, error.strerror) from error
        return name, blake3 or digest.hex()

    def check(self, name: str, blake3: str) -> None:
        """A DamagedFile unless the file has the body that was written."""
        found = Digest(self._specs, "blake3")
        for _, piece in self.pieces(name):
            found.add(piece)
        if found.hex() != blake3:
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
