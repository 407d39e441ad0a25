"""From the text of `--task` to a Task at a site. Whatever goes wrong is a TaskError of one line."""

import copy
import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from console import TaskError
from learning.bundled import require_scikit_learn
from learning.partition import parse_partition
from learning.task import Site, Task
from learning.user_code import OUR_PACKAGES, blame, blamed, make_room, package_of

BUILT_IN = {"digits": "learning.digits", "breast-cancer": "learning.breast_cancer"}
METHODS = ("model", "train", "evaluate")
METHODS_OF_SUMS = ("model", "sums", "apply", "evaluate")
"""Of a task that is summed up rather than trained; see learning.sums."""

# Two threads of one process may load the same file: the second waits, and gets the same module.
_loading = threading.RLock()


def load_task(reference: str, site: Site, *, own: bool = False) -> Task:
    """The task at `site` that `reference` names: a built-in, `module:object` or `path/file.py:object`.

    The object is a Task, or a callable (class or function) that takes the Site and returns one. Modules are
    also looked for in the current directory, and what a file imports also beside that file; both come last
    on `sys.path`, so a user's `worker.py` never stands in for ours (see learning.user_code). A file is executed
    once in a process, however often it is loaded. With `own`, an object that is a Task is copied. Raises TaskError.
    """
    try:
        parse_partition(site.partition)
    except ValueError as error:
        raise TaskError(str(error)) from error
    found = _find(reference)
    return at_site(found, site, reference, own=own)


def _find(reference: str) -> object:
    if reference in BUILT_IN:
        require_scikit_learn()
        return importlib.import_module(BUILT_IN[reference]).task
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise TaskError(
            f"unknown task {reference!r}; built in are {', '.join(BUILT_IN)};"
            " your own is given as module:object or path/file.py:object"
        )
    if place.endswith(".py"):
        return object_in_file(Path(place), name)
    return _named_in(_module_named(place, name), name, place)


def object_in_file(path: Path, name: str) -> object:
    """What a Python file calls by this name; it is executed once in a process. Raises TaskError."""
    return _named_in(_module_of_file(path), name, str(path))


def _named_in(module: ModuleType, name: str, place: str) -> object:
    try:
        return cast(object, getattr(module, name))
    except AttributeError:
        raise TaskError(f"{place} has no {name!r}; it has: {_contents(module)}") from None


def _module_named(place: str, name: str) -> ModuleType:
    package = place.partition(".")[0]
    if package in OUR_PACKAGES:
        raise TaskError(
            f"the module name {place!r} belongs to fedmq; give yours by its path:"
            f" {place.replace('.', '/')}.py:{name}, or rename it"
        )
    _search_last(Path.cwd())
    file = Path.cwd() / f"{place}.py"
    if file.is_file():
        make_room(file)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):
            raise TaskError(
                f"no module named {error.name!r} here ({Path.cwd()}) or among the installed packages;"
                " for a file elsewhere write path/file.py:object"
            ) from error
        blame(f"importing {place}", error)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        blame(f"importing {place}", error)


def _module_of_file(path: Path) -> ModuleType:
    path = path.expanduser()
    if not path.is_file():
        raise TaskError(f"there is no file {path} (looked from {Path.cwd()})")
    path = path.resolve()
    name = f"fedmq_task_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    with _loading:
        if name not in sys.modules:
            _execute(path, name)
        return sys.modules[name]


def _execute(path: Path, name: str) -> None:
    _search_last(path.parent)
    with blamed(f"importing {path.name}"):
        make_room(path)
        package = package_of(path)
        spec = importlib.util.spec_from_file_location(f"{package}.{path.stem}" if package else name, path)
        assert spec is not None, "a path that ends in .py always has a loader"
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = sys.modules[module.__name__] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            sys.modules.pop(module.__name__, None)
            raise


def at_site(found: object, site: Site, reference: str, *, own: bool = False) -> Task:
    """The Task at `site` that `found` is, or that it returns when called with the site. Raises TaskError.

    `reference` is what the error calls it. With `own`, a task as it is is copied.
    """
    if not inspect.isclass(found) and not _missing_methods(found):
        return cast(Task, _copied(found, reference) if own else found)
    if not callable(found):
        raise TaskError(f"{reference} {_shortcoming(found)}")
    task = _call(found, site, reference)
    if inspect.isclass(task) or _missing_methods(task):
        raise TaskError(f"{reference}, called with the site, returned an object that {_shortcoming(task)}")
    return cast(Task, task)


def has_samples(task: object) -> bool:
    """Whether a task has samples to train on; one that does not say, with a method of this name, has."""
    says = getattr(task, "has_samples", None)
    if not callable(says):
        return True
    with blamed("the task's has_samples()"):
        return bool(says())


def prepare(task: object, statistics: Mapping[str, Sequence[float]]) -> dict[str, Tensor]:
    """Tells a task the statistics of its run, if it has a method of this name; returns them as its plan has them."""
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in statistics.items()}
    takes = getattr(task, "prepare", None)
    if callable(takes):
        with blamed("the task's prepare()"):
            takes(tensors)
    return tensors


def _copied(task: object, reference: str) -> object:
    try:
        return copy.deepcopy(task)
    except Exception as error:  # a task may hold anything, and much of it cannot be copied
        raise TaskError(
            f"{reference} is one object for all simulated sites, and cannot be copied ({error});"
            " give a class, or a function that takes the site and returns a task"
        ) from error


def _call(factory: Any, site: Site, reference: str) -> object:
    try:
        inspect.signature(factory).bind(site)
    except TypeError as error:
        raise TaskError(f"{reference} must take one argument, the site: {error}") from error
    except ValueError:
        pass  # a callable without a signature, written in C: calling it will tell
    with blamed(f"calling {reference} with the site"):
        return cast(object, factory(site))


def _missing_methods(task: object) -> list[str]:
    methods = METHODS_OF_SUMS if hasattr(task, "sums") and not hasattr(task, "train") else METHODS
    return [name for name in methods if not callable(getattr(task, name, None))]


def _shortcoming(task: object) -> str:
    missing = _missing_methods(task) or list(METHODS)
    return (
        f"(of type {type(task).__name__}) lacks {', '.join(f'{name}()' for name in missing)};"
        " a task has model(), train(model, plan) and evaluate(model), or, to be summed up, sums(model, plan) and"
        " apply(model, sums) in place of train"
    )


def _contents(module: ModuleType) -> str:
    members = vars(module).items()
    names = [name for name, value in members if not name.startswith("_") and not inspect.ismodule(value)]
    return ", ".join(names) or "nothing"


def _search_last(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
