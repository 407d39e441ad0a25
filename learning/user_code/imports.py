"""What a user's file imports of its own: from its package by relative names, and where a name is one of ours too.

Our packages are loaded long before a user's file, so a ``worker.py`` beside it can never be what ``import worker``
gets. A submodule that we do not have (``learning.net``) can be found all the same: the user's folder is searched
after ours. Everything else would silently be ours, and is refused with what to write instead.
"""

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from console import TaskError
from learning.user_code.packages import OUR_PACKAGES

_HOUSE = Path(__file__).parents[2]


def make_room(path: Path) -> None:
    """Sees to it that what the file at ``path``, and what lies beside it, imports of the user's own is found.

    TaskError for an import of the user's own that would get ours.
    """
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        seen.add(file)
        for name, wanted, line in _imports(file):
            top, _, rest = name.partition(".")
            beside = [place for place in (path.parent / f"{top}.py", path.parent / top) if place.exists()]
            if not beside:
                continue
            if top not in OUR_PACKAGES:
                waiting += [place for place in beside if place.is_file() and place not in seen]
            elif path.parent != _HOUSE and path != beside[0]:
                _share(beside[0], top, rest.partition(".")[0], wanted, f"{file}:{line}")


def package_of(path: Path) -> str | None:
    """The name, loaded, of the package that a file with relative imports is in; None for one without such imports."""
    if not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(_tree(path))):
        return None
    top = path.parent
    while (top / "__init__.py").is_file() and (top.parent / "__init__.py").is_file():
        top = top.parent
    root = f"fedmq_package_{hashlib.sha256(str(top).encode()).hexdigest()[:12]}"
    if root not in sys.modules:
        _load_package(root, top)
    name = ".".join((root, *path.parent.relative_to(top).parts))
    importlib.import_module(name)
    return name


def _load_package(name: str, folder: Path) -> None:
    init = folder / "__init__.py"
    if not init.is_file():
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = [str(folder)]
        return
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
    assert spec is not None, "a path that ends in .py always has a loader"
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise


def _imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """(module, name in it or '', line) of the absolute imports of a file."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield from ((node.module, alias.name, node.lineno) for alias in node.names)


def _tree(path: Path) -> ast.Module:
    """The file's statements; none if it cannot be parsed, which its execution will tell."""
    try:
        return ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _share(beside: Path, top: str, submodule: str, wanted: str, where: str) -> None:
    part = submodule or wanted
    is_ours = _has_module(_HOUSE / top, part) if submodule else hasattr(importlib.import_module(top), part)
    is_theirs = beside.is_dir() and _has_module(beside, part)
    if part and is_ours != is_theirs:
        if is_theirs:
            _search_after_ours(top, beside)
        return
    raise TaskError(
        f"{where} imports {'.'.join(filter(None, (top, submodule)))!r}, a name of fedmq's own, and {beside} has it too;"
        f" write a relative import (from .{top} import …), or give {beside.name} another name"
    )


def _has_module(package: Path, name: str) -> bool:
    return bool(name) and ((package / f"{name}.py").is_file() or (package / name).is_dir())


def _search_after_ours(top: str, folder: Path) -> None:
    path = importlib.import_module(top).__path__
    if str(folder) not in path:
        path.append(str(folder))
