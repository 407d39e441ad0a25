"""The roster as a running process sees it: read again when the file changes, and never going back."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from console import IdentityError
from identities.files import FileWatch
from identities.roster import Roster

_log = logging.getLogger(__name__)


class Rosters(Protocol):
    """Where the roster that counts now comes from."""

    looks_every_s: float | None
    """How often ``current`` is worth calling, in seconds; None: the roster never changes."""

    def current(self) -> Roster: ...


class FixedRoster:
    """A roster that does not change."""

    looks_every_s: float | None = None

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def current(self) -> Roster:
        return self._roster


class RosterFile:
    """A file that the admin whose key has this fingerprint signed. May be asked by several threads.

    ``clock`` gives seconds. The file is looked at once a second at most, and read if it is another one. One that
    cannot be used is refused with a warning, and the roster before it goes on counting.
    """

    looks_every_s: float | None = 1.0

    def __init__(self, path: Path, fingerprint: str, *, clock: Callable[[], float]) -> None:
        """An IdentityError if there is no usable roster to begin with."""
        self._path, self._fingerprint = path, fingerprint
        self._lock = threading.Lock()
        self._watch = FileWatch(path, clock=clock)
        self._roster = Roster.read(path).checked(fingerprint)

    def current(self) -> Roster:
        """The newest roster that could be used."""
        with self._lock:
            if self._watch.has_changed():
                self._read_again()
            return self._roster

    def _read_again(self) -> None:
        try:
            roster = Roster.read(self._path).checked(self._fingerprint)
            self._check_that_it_follows(roster)
        except IdentityError as error:
            _log.warning("%s; version %d of the roster goes on counting", error, self._roster.version)
            return
        if roster != self._roster:
            _log.info("roster of %s: version %d counts from now on", roster.federation, roster.version)
        self._roster = roster

    def _check_that_it_follows(self, new: Roster) -> None:
        old = self._roster
        if new.federation != old.federation:
            raise IdentityError(f"{self._path} is the roster of {new.federation}, and this is {old.federation}")
        if new.version < old.version:
            raise IdentityError(f"{self._path} is version {new.version}, older than the one that counts")
        if new.version == old.version and new != old:
            raise IdentityError(f"{self._path} has other content than before, under the same version {new.version}")
