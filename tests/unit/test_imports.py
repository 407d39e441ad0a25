"""The import arrows: who may know whom, and what nobody may use."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]

MAY_IMPORT = {
    "broker": set(),
    "learning": {"broker"},
    "worker": {"broker", "learning"},
    "aggregator": {"broker", "learning"},
    "dashboard": {"broker", "aggregator"},
    "scaffold": {"broker", "learning", "worker", "aggregator", "simulation", "dashboard"},
    "simulation": {"broker", "learning", "worker", "aggregator"},
}
LEARNING_MAY_IMPORT_OF_BROKER = {"broker.errors"}
WIRE_ONLY = {"pika", "msgpack", "zstandard"}
NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__"}

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, also for types alone."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_module_imports_only_what_its_package_may_know(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for module in imports_of(path):
        top = module.partition(".")[0]
        if top in PACKAGES and top != package:
            assert top in MAY_IMPORT[package], f"{package} may not know {top}"
        if package == "learning" and top == "broker":
            assert module in LEARNING_MAY_IMPORT_OF_BROKER
        if top in WIRE_ONLY:
            assert package == "broker", f"only broker/ may use {top}"
        assert top not in NEVER_IMPORTED


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_module_neither_unpickles_nor_runs_text(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in NEVER_CALLED
        assert not called.endswith(("torch.load", "torch.jit.load", "hub.load"))
        assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords)
        if called.endswith("yaml.load"):
            raise AssertionError("yaml.load runs constructors; use yaml.safe_load")


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    assert not {path.stem for path in SOURCES} & (set(sys.stdlib_module_names) - {"__init__"})
    assert not set(PACKAGES) & set(sys.stdlib_module_names)


def test_every_package_that_is_named_is_there_and_every_one_that_is_there_is_named() -> None:
    assert set(PACKAGES) == set(MAY_IMPORT)
    assert set(PROJECT["tool"]["mypy"]["packages"]) == set(PACKAGES)
    assert set(PROJECT["tool"]["ruff"]["lint"]["isort"]["known-first-party"]) == set(PACKAGES)
    for package in PACKAGES:
        assert (ROOT / package / "__init__.py").is_file()
        assert (ROOT / package / "py.typed").is_file()


def test_the_image_is_built_with_every_package() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert {f"!{name}" for name in PACKAGES} <= set(lines)


def test_every_package_within_a_package_is_installed_too() -> None:
    nested = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("*/**/__init__.py")}
    assert {name for name in nested if name.partition(".")[0] in PACKAGES} == set(PACKAGES)


@pytest.mark.parametrize("command", sorted(PROJECT["project"]["scripts"].items()), ids=lambda command: command[0])
def test_every_command_is_a_function_that_is_there(command: tuple[str, str]) -> None:
    module, _, function = command[1].partition(":")
    path = ROOT / f"{module.replace('.', '/')}.py"
    assert function in {node.name for node in tree_of(path).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("command", ["broker.status_cli", "broker.dead_cli"])
def test_a_command_that_only_looks_does_not_wait_for_pytorch(command: str) -> None:
    code = f"import sys, {command}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_third_party_import_is_a_declared_dependency() -> None:
    declared = {name.partition("[")[0].partition(">")[0].partition("<")[0].strip() for name in _requirements()}
    renamed = {
        "mlflow": "mlflow-skinny",
        "prometheus_client": "prometheus-client",
        "pydantic_core": "pydantic",
        "pydantic_settings": "pydantic-settings",
        "pythonjsonlogger": "python-json-logger",
        "sklearn": "scikit-learn",
        "yaml": "pydantic-settings",
    }
    for path in SOURCES:
        for module in imports_of(path):
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in PACKAGES:
                assert renamed.get(top, top) in declared, f"{path.relative_to(ROOT)} imports {top}"


def _requirements() -> list[str]:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    of_the_product = ("demo", "fast", "tensorboard", "mlflow")
    return [*project["dependencies"], *(name for extra in of_the_product for name in extras[extra])]
