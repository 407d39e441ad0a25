"""Values as others may see them: without the folders of the machine that recorded them."""

import re
from pathlib import Path
from typing import Any

_ABSOLUTE = re.compile(r"^(?:file://|~|/|[A-Za-z]:[\\/]|\\\\)")


def portable(value: Any) -> Any:
    """The same value; of absolute paths in it, also in mappings and lists, only the last part is left."""
    if isinstance(value, dict):
        return {key: portable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [portable(each) for each in value]
    if isinstance(value, str) and _ABSOLUTE.match(value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def without_folder(words: str, folder: Path) -> str:
    """A message about what is in ``folder``, which names the folder without saying where it is."""
    for path in {str(folder), str(folder.absolute()), str(folder.resolve())} - {"."}:
        words = words.replace(path, folder.absolute().name)
    return words
