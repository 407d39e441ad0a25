"""Files that no other user of the machine can read."""

import grp
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from console.errors import IdentityError

log = logging.getLogger(__name__)

SECRET_BYTES = 32
"""Of a secret's file: it has them raw, and nothing else."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextmanager
def private_files(folder: Path | None) -> Iterator[None]:
    """Inside the ``with``, every file that this process makes is for its own user alone, whatever the umask was.

    That includes the files that SQLite and other libraries make. ``folder`` is the state directory, if there is one. If
    it is there already it keeps its rights, with a warning if they are wider than this user. A directory that hands
    its group on (``chmod g+s``) was opened to that group on purpose: files in it get the group rights that it has.
    """
    mode = folder.stat().st_mode if folder is not None and folder.is_dir() else 0
    group = mode & stat.S_IRWXG if mode & stat.S_ISGID else 0
    if folder is not None and mode & _OTHERS & ~group:
        log.warning(
            "state directory %s (mode %03o) is open to %s; to close it: chmod 700 %s",
            folder,
            stat.S_IMODE(mode),
            "every user of this machine" if mode & stat.S_IRWXO else f"the group {_group_of(folder)}",
            folder,
        )
    before = os.umask(_OTHERS & ~group)
    try:
        yield
    finally:
        os.umask(before)


def _group_of(folder: Path) -> str:
    number = folder.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def read_secret(path: Path) -> bytes:
    """The secret in a file, if nobody but the file's owner can read it; an IdentityError says what is wrong with it."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(SECRET_BYTES + 1)
    except OSError as error:
        raise IdentityError(f"{path}: {error.strerror}") from error
    if mode & _OTHERS:
        raise IdentityError(f"others can read {path} (its mode is {mode:04o}); use: chmod 600 {path}")
    if len(content) != SECRET_BYTES:
        raise IdentityError(f"{path} holds no key: expected exactly {SECRET_BYTES} bytes")
    return content
