"""Which workers may count: their updates, and their presence for the quorum."""

import fnmatch
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from console import SettingsError

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_PATTERN = re.compile(r"[A-Za-z0-9_*?\[\]!-]{1,128}")


class Admission(Protocol):
    """Who may count. The answer may change while the run goes on."""

    looks_every_s: float | None
    """How often ``look`` is worth calling, in seconds; None: the answer never changes."""

    def admits(self, worker: str, keys: Sequence[bytes] = ()) -> bool:
        """Whether this worker counts; ``keys``, as ``Signer`` has them, are those by which it is known, if any."""

    def reason(self, worker: str, keys: Sequence[bytes] = ()) -> str:
        """Why a worker that is not admitted is not, in words that follow its name."""

    def look(self) -> bool:
        """Looks who is admitted now; True if that differs from before. Cheap if called often."""


class Everybody:
    """Admits all workers."""

    looks_every_s: float | None = None

    def admits(self, worker: str, keys: Sequence[bytes] = ()) -> bool:
        return True

    def reason(self, worker: str, keys: Sequence[bytes] = ()) -> str:
        return "is not among those that may count"

    def look(self) -> bool:
        return False


class Allowed:
    """Admits workers by name: by patterns, as the shell has them, or by a file with one of these a line.

    A file is read again a second after it has changed, so that nobody reads it half written. If that fails, who was
    admitted stays admitted. A SettingsError if it cannot be read the first time.
    """

    def __init__(self, text: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._path = Path(text) if is_path(text) else None
        self.looks_every_s = _LOOK_EVERY_S if self._path else None
        self._look_at = clock() + _LOOK_EVERY_S
        if self._path is None:
            self._patterns = tuple(pattern.strip() for pattern in text.split(","))
            _check(self._patterns, "--workers-allowed")
            return
        try:
            self._seen: tuple[int, int, int] = _stamp(self._path)
            self._read_as: tuple[int, int, int] | None = self._seen
            self._patterns = _read(self._path)
        except OSError as error:
            raise SettingsError(f"--workers-allowed: {self._path} cannot be read: {error.strerror}") from error

    def reason(self, worker: str, keys: Sequence[bytes] = ()) -> str:
        return "is not among those that may count (--workers-allowed)"

    def admits(self, worker: str, keys: Sequence[bytes] = ()) -> bool:
        return any(fnmatch.fnmatchcase(worker, pattern) for pattern in self._patterns)

    def look(self) -> bool:
        if self._path is None or self._clock() < self._look_at:
            return False
        self._look_at = self._clock() + _LOOK_EVERY_S
        try:
            stamp, before = _stamp(self._path), self._seen
            self._seen = stamp
            if stamp == self._read_as or stamp != before:
                return False
            self._read_as = stamp
            patterns = _read(self._path)
        except (OSError, SettingsError) as error:
            if self._read_as is not None:
                log.error("--workers-allowed: %s; those allowed before stay so", error)
                self._read_as = None
            return False
        has_changed = set(patterns) != set(self._patterns)
        self._patterns = patterns
        if has_changed:
            log.info("%s has changed: %d names and patterns are allowed", self._path, len(patterns))
        return has_changed


def is_path(text: str) -> bool:
    """Whether this names a file: no worker's name has a dot or a slash."""
    return "/" in text or "." in text or os.sep in text


def _read(path: Path) -> tuple[str, ...]:
    """The patterns in a file: one a line; what follows a # is a comment. A SettingsError names a line that is none.

    Without any it is a SettingsError, too: it is rather being written, or was emptied by a full disk, than meant.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    patterns = tuple(line for line in (line.partition("#")[0].strip() for line in lines) if line)
    if not patterns:
        raise SettingsError(f"{path} names nobody")
    _check(patterns, str(path))
    return patterns


def _check(patterns: tuple[str, ...], place: str) -> None:
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise SettingsError(
                f"{place}: {pattern!r} is no name of a worker and no pattern of names, such as site-3 or hospital-*;"
                " a file is given with a dot or a slash in its name"
            )


def _stamp(path: Path) -> tuple[int, int, int]:
    """Differs when the file does."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
