"""A name for a worker that was given none, or only its beginning: the machine's, with a number where it is taken."""

import fcntl
import hashlib
import re
import socket
import tempfile
from pathlib import Path
from typing import IO

from console import SettingsError

_MAX_ON_ONE_MACHINE = 1000
_MAX_STEM = 56
"""Characters of a name before its number; 64 are allowed in all."""
_DIGEST = 8


def name_of_machine(prefix: str = "") -> tuple[str, IO[str]]:
    """The first free name on this machine that begins so, and the file whose lock holds it while it is open.

    A restarted worker gets the name it had, unless another one took it meanwhile. None free is a SettingsError.
    """
    stem = _stem(prefix, socket.gethostname())
    for number in range(1, _MAX_ON_ONE_MACHINE):
        name = stem if number == 1 else f"{stem}-{number}"
        try:
            file = (Path(tempfile.gettempdir()) / f"fl-worker-{name}.lock").open("w", encoding="utf-8")
        except OSError:  # another user's
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return name, file
    raise SettingsError(f"no free name among {stem} to {stem}-{_MAX_ON_ONE_MACHINE - 1}; give one with --name")


def _stem(prefix: str, machine: str) -> str:
    """Both, or, where that is too long, its beginning and a digest: what tells machines apart may be at either end."""
    whole = prefix + (re.sub(r"[^A-Za-z0-9_-]", "-", machine) or "worker")
    if len(whole) <= _MAX_STEM:
        return whole
    digest = hashlib.sha256(machine.encode()).hexdigest()[:_DIGEST]
    return f"{whole[: _MAX_STEM - _DIGEST - 1]}-{digest}"
