"""Whether a process has a run open: it holds a shared lock on the state directory, which ends with it however it ends.

The lock keeps nobody out, since epochs do that. It is an ``flock``, of which SQLite's own locks are independent.
"""

import contextlib
import fcntl
import os
from pathlib import Path


class Hold:
    """Holds a folder until it is closed. Where the file system has no such locks, it does nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder: int | None = None
        with contextlib.suppress(OSError):
            self._folder = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._folder, fcntl.LOCK_SH)

    def close(self) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None


def is_held(folder: Path) -> bool | None:
    """Whether any process of this machine, or this one, holds it; None where that cannot be told."""
    try:
        found = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(found)
