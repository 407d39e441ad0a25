"""One update on the disk: the payload of its delta, as it is folded, and nothing else.

    update-9f2c….tmp             while it comes, and until the commit that names it
    sum-2-00013-of-9f2c….update  from then on; the numbers: epoch and round

A name is used once. A file that no commit names is of no use, and goes.
"""

import hashlib
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds import numbers
from aggregator.state import UNFINISHED_UPDATE, StateDirectory, not_written
from broker.wire import Buffer, TensorSpec
from console import DamagedFile

_HELD_AS = {"bfloat16": "float32", "float16": "float32", "bool": "uint8"}
"""Dtypes that are worked on as others, which hold all of their values: numpy lacks the first, and sorts both slowly."""


@dataclass(frozen=True, slots=True)
class UpdateFile:
    """The file of one update. A DamagedFile if it cannot be read."""

    path: Path
    largest: float = 0.0
    """The largest magnitude in it."""
    sha256: str | None = None
    """None: no commit names it."""

    @classmethod
    def begun(cls, folder: Path, num_bytes: int) -> "UpdateFile":
        """A new file of this size. A StateError if there is no room for it."""
        file = cls(folder / f"{UNFINISHED_UPDATE}{secrets.token_hex(8)}.tmp")
        try:
            with file.path.open("xb") as opened:
                opened.truncate(num_bytes)
        except OSError as error:
            raise not_written(file.path, error.strerror) from error
        return file

    def write(self, offset: int, piece: Buffer, largest: float) -> "UpdateFile":
        """The same with a piece in it; a StateError if there is no room."""
        try:
            with self.path.open("r+b") as file:
                file.seek(offset)
                file.write(piece)
        except OSError as error:
            raise not_written(self.path, error.strerror) from error
        return replace(self, largest=max(self.largest, largest))

    def saved(self, directory: StateDirectory, prefix: str) -> "UpdateFile":
        """The same under a name that a commit can give; durable once what is saved after it is."""
        if self.sha256 is not None:
            return self
        sha256 = self._digest()
        path = directory.adopt(self.path, f"{prefix}-of-{self.path.stem.removeprefix(UNFINISHED_UPDATE)}.update")
        return replace(self, path=path, sha256=sha256)

    def check(self, num_bytes: int) -> None:
        """A DamagedFile unless it is what was saved."""
        try:
            if self.path.stat().st_size == num_bytes and self._digest() == self.sha256:
                return
        except OSError as error:
            raise DamagedFile(f"{self.path} cannot be read: {error.strerror}") from error
        raise DamagedFile(f"{self.path} is damaged: its digest is not the one that was recorded")

    def _digest(self) -> str:
        with self.path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, offset: int, spec: TensorSpec, into: NDArray[Any]) -> None:
        """Fills an array of ``held_as(spec)`` with the values that begin at byte ``offset``."""
        is_direct = spec.dtype not in _HELD_AS
        raw = into if is_direct else np.empty(len(into), "uint16" if spec.dtype == "bfloat16" else spec.dtype)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(offset)
                num_read = file.readinto(raw.view(np.uint8).data) if len(raw) else 0
        except OSError as error:
            raise DamagedFile(f"{self.path} cannot be read: {error.strerror}") from error
        if num_read != raw.nbytes:
            raise DamagedFile(f"{self.path} ends early")
        if not is_direct:
            into[:] = numbers(raw, spec)


def held_as(spec: TensorSpec) -> np.dtype[Any]:
    """The dtype in which values of a tensor are compared: it holds each of them."""
    return np.dtype(_HELD_AS.get(spec.dtype, spec.dtype))
