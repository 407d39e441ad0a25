"""Text files of keys, certificates and rosters: read, replaced in one step, and watched for changes."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from console import IdentityError

_LOOKS_EVERY_S = 1.0
_MAX_TEXT_BYTES = 4 * 2**20


def read_text(path: Path) -> str:
    """A file of keys, certificates or a roster. An IdentityError if it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise IdentityError(f"{path}: {error.strerror}") from error
    if len(content) > _MAX_TEXT_BYTES:
        raise IdentityError(f"{path} has more than {_MAX_TEXT_BYTES} bytes, and is no file of fl-keys")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise IdentityError(f"{path} is no text; expected a file that fl-keys wrote") from error


def write_whole(path: Path, text: str) -> None:
    """The file, replaced in one step: who reads it meanwhile reads the old one. An IdentityError if it cannot be."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(path)
    except OSError as error:
        raise IdentityError(f"cannot write {path}: {error.strerror}") from error


class FileWatch:
    """Whether a file is another one than before. ``clock`` gives seconds. May be asked by several threads."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self.path, self._clock = path, clock
        self._lock = threading.Lock()
        self._looked_at_s = clock()
        self._seen = self._stamp()

    def has_changed(self) -> bool:
        """True once for each change. A clock that is set back is a reason to look."""
        with self._lock:
            now = self._clock()
            if 0 <= now - self._looked_at_s < _LOOKS_EVERY_S:
                return False
            self._looked_at_s = now
            before, self._seen = self._seen, self._stamp()
            return before != self._seen

    def _stamp(self) -> tuple[int, int, int] | None:
        """What changes with the file; None while it is not there."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
