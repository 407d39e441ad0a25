"""Files that a kill leaves whole: the old one or the new one, never a part."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from console.errors import StateError


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
        raise StateError(f"cannot write {path}: {error}; make room, and the same command goes on") from error


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
