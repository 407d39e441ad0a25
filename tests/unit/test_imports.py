"""The rooms of the house and the arrows between them: who may know whom, and what nobody may use.

A room is a package, or a file that others of its package stand on. ``ARROWS`` is the one list of them; packaging, type
checks and the image are held against it.
"""

import ast
import functools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from console.settings import SECTIONS
from learning.user_code import OUR_PACKAGES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

_WIRE = ("console", "broker.wire", "broker")
_STATES = (*_WIRE, "broker.states")
_MODULES = (*_STATES, "broker.modules")
ARROWS: dict[str, tuple[str, ...]] = {
    "console.errors": (),
    "console.flags": ("console.errors",),
    "console": ("console.errors", "console.flags"),
    "console.durable": ("console.errors",),
    "console.serving": ("console", "console.errors"),
    "privacy": ("console", "console.durable"),
    "privacy.planning": ("console", "privacy"),
    "broker.wire.headers": ("console",),
    "broker.wire": ("console", "broker.wire.headers"),
    "broker": ("console", "broker.wire"),
    "broker.states": _WIRE,
    "broker.modules": _STATES,
    "broker.rabbitmq.links": _WIRE,
    "broker.rabbitmq": (*_WIRE, "broker.rabbitmq.links"),
    "broker.connecting": (*_WIRE, "broker.rabbitmq"),
    "identities": _WIRE,
    "keeper.events": _WIRE,
    "keeper.watchers": (*_WIRE, "console.serving", "keeper.events"),
    "keeper": (
        *_WIRE,
        *("console.durable", "console.serving", "privacy", "identities"),
        *("keeper.events", "keeper.watchers"),
    ),
    "operations": (*_WIRE, "broker.rabbitmq", "identities"),
    "learning.user_code": ("console",),
    "learning.optimizers": (),
    "learning.devices": (),
    "learning": ("console", "learning.user_code", "learning.optimizers", "learning.devices"),
    "learning.sums": ("console", "learning.user_code", "learning"),
    "learning.scripts": ("console", "learning.user_code", "learning"),
    "worker.state": (*_STATES, "console.durable", "learning", "privacy"),
    "worker.events": _WIRE,
    "worker.algorithms": (*_STATES, "worker.state"),
    "worker.masking": (*_STATES, "identities", "privacy"),
    "worker.watchers": (*_WIRE, "console.serving", "learning", "worker.events"),
    "worker.rounds": (
        *_MODULES,
        "identities",
        "learning",
        "learning.devices",
        "learning.sums",
        *(f"worker.{room}" for room in ("state", "events", "algorithms", "masking")),
    ),
    "worker": (
        *_MODULES,
        "console.serving",
        "identities",
        "learning",
        "learning.devices",
        "learning.scripts",
        "learning.sums",
        *(f"worker.{room}" for room in ("state", "events", "algorithms", "masking", "watchers", "rounds")),
    ),
    "aggregator.state.ledger": (*_WIRE, "console.durable", "learning"),
    "aggregator.state": (*_MODULES, "console.durable", "learning", "aggregator.state.ledger"),
    "aggregator.events": (*_WIRE, "aggregator.state"),
    "aggregator.plans": ("console",),
    "aggregator.history": (*_STATES, "learning", "learning.sums", "aggregator.state", "aggregator.plans"),
    "aggregator.senders": (*_WIRE, "identities", "aggregator.state"),
    "aggregator.bodies": (*_WIRE, "console.durable"),
    "aggregator.presence": (*_WIRE, *(f"aggregator.{room}" for room in ("state", "events", "senders"))),
    "aggregator.algorithms": (*_STATES, "learning", "aggregator.state"),
    "aggregator.weighing": (*_WIRE, "aggregator.state"),
    "aggregator.rounds": (
        *_STATES,
        "identities",
        *(f"aggregator.{room}" for room in ("state", "events", "senders", "bodies", "algorithms", "weighing")),
    ),
    "aggregator.corrections": (*_STATES, *(f"aggregator.{room}" for room in ("state", "algorithms", "weighing"))),
    "aggregator.robust": ("console",),
    "aggregator.spool": (*_WIRE, "aggregator.state", "aggregator.rounds", "aggregator.robust"),
    "aggregator.masking": (
        *_WIRE,
        "privacy",
        *(f"aggregator.{room}" for room in ("state", "bodies", "rounds")),
    ),
    "aggregator.noising": (*_WIRE, "privacy", "aggregator.state"),
    "aggregator.config": (
        *_WIRE,
        "identities",
        "learning",
        *(f"aggregator.{room}" for room in ("state", "senders", "bodies", "presence")),
        *(f"aggregator.{room}" for room in ("algorithms", "weighing", "rounds", "plans", "noising")),
    ),
    "aggregator.sums": (
        *_MODULES,
        "learning",
        "learning.sums",
        *(f"aggregator.{room}" for room in ("state", "algorithms", "weighing", "rounds", "config")),
    ),
    "aggregator.pairs": ("broker", "privacy", "aggregator.algorithms", "aggregator.rounds", "aggregator.plans"),
    "aggregator.settings": (
        *_WIRE,
        "privacy",
        "identities",
        "learning",
        "learning.sums",
        *(
            f"aggregator.{room}"
            for room in ("state", "senders", "presence", "algorithms", "weighing", "rounds", "plans")
        ),
        *(f"aggregator.{room}" for room in ("corrections", "robust", "spool", "masking", "noising", "config", "pairs")),
    ),
    "aggregator.commands": (*_WIRE, *(f"aggregator.{room}" for room in ("state", "plans", "config"))),
    "aggregator.watchers": (
        *_WIRE,
        "privacy",
        "console.serving",
        "learning",
        *(f"aggregator.{room}" for room in ("state", "events", "history", "presence", "rounds", "settings")),
    ),
    "aggregator.opening": (
        *_MODULES,
        "learning",
        *(
            f"aggregator.{room}"
            for room in ("state", "events", "senders", "bodies", "presence", "corrections", "rounds")
        ),
        *(f"aggregator.{room}" for room in ("robust", "masking", "noising", "config", "sums", "pairs", "commands")),
    ),
    "aggregator.course": (
        *_WIRE,
        *(f"aggregator.{room}" for room in ("state", "events", "senders", "presence", "rounds", "masking")),
        *(f"aggregator.{room}" for room in ("config", "commands", "opening")),
    ),
    "aggregator.incoming": (
        *_WIRE,
        *(f"aggregator.{room}" for room in ("senders", "bodies", "presence", "rounds", "masking", "course")),
    ),
    "aggregator": (
        *_STATES,
        "privacy",
        "console.serving",
        "identities",
        "learning",
        "learning.scripts",
        *(f"aggregator.{room}" for room in ("state", "events", "history", "senders", "bodies", "presence")),
        *(f"aggregator.{room}" for room in ("algorithms", "weighing", "rounds", "plans")),
        *(f"aggregator.{room}" for room in ("masking", "noising", "config", "sums", "settings")),
        *(f"aggregator.{room}" for room in ("commands", "watchers", "opening", "course", "incoming")),
    ),
    "operations.runs": (*_WIRE, "identities", "operations", "aggregator.history"),
    "dashboard": (*_WIRE, "console.serving", "identities", "operations", "aggregator.history"),
    "simulation.tied": ("console",),
    "simulation.secrecy": (*_WIRE, "identities", "privacy", "keeper", "aggregator"),
    "simulation": (
        "simulation.tied",
        "simulation.secrecy",
        "keeper",
        *_MODULES,
        "console.errors",
        "identities",
        "learning",
        "learning.devices",
        "learning.scripts",
        "learning.sums",
        "worker",
        "aggregator",
        *(f"aggregator.{room}" for room in ("state", "events", "history", "watchers")),
    ),
    "simulation.statistics": (
        *_WIRE,
        *(
            "identities",
            "learning",
            "learning.sums",
            "aggregator",
            "aggregator.state",
            "aggregator.history",
            "simulation",
        ),
    ),
    "fedmq": ("console", "learning", "learning.scripts", "worker.events", "worker", "simulation"),
    "scaffold": (
        *_WIRE,
        "console.flags",
        *("identities", "operations", "operations.runs", "worker", "keeper", "aggregator", "simulation", "dashboard"),
        *("simulation.statistics", "privacy.planning"),
    ),
    "starting": (),
}
"""Room -> the rooms it may know, in an order in which each knows only earlier ones."""

ONLY_IN = {
    "cryptography": ("identities", "privacy"),
    "pika": ("broker.rabbitmq", "broker.rabbitmq.links"),
    "msgpack": "broker.wire",
    "zstandard": "broker.wire",
    "rich": (
        "console",
        "operations",
        "worker.watchers",
        "aggregator.watchers",
        "aggregator",
        *("keeper.watchers", "simulation", "simulation.statistics"),
    ),
}
MOST_FILES = 12
"""Of a package on one level, besides its door."""
NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__"}

PACKAGES = sorted(room for room in ARROWS if (ROOT / room.replace(".", "/")).is_dir())
TOPS = sorted({room.partition(".")[0] for room in ARROWS})
SOURCES = sorted(path for package in TOPS for path in (ROOT / package).rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The innermost room that a module is, or is in."""
    while module not in ARROWS:
        module = module.rpartition(".")[0]
    return module


@functools.cache
def imports_of(path: Path) -> list[tuple[str, str]]:
    """(module, name in it) of every import of a file, wherever in it, also for types alone; '' for a whole module."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            found += [(node.module, alias.name) for alias in node.names]
    return found


@functools.cache
def own_imports_of(path: Path) -> list[tuple[str, str]]:
    """The same of our own packages; what is imported may itself be a module."""
    return [
        (f"{module}.{name}", "") if is_module(f"{module}.{name}") else (module, name)
        for module, name in imports_of(path)
        if module.partition(".")[0] in TOPS
    ]


@functools.cache
def is_module(name: str) -> bool:
    return (ROOT / f"{name.replace('.', '/')}.py").is_file()


@functools.cache
def offers_of(room: str) -> set[str]:
    """What the door of a package names."""
    for node in tree_of(ROOT / room.replace(".", "/") / "__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def test_no_room_knows_itself_by_way_of_another() -> None:
    seen: set[str] = set()
    for room, known in ARROWS.items():
        assert set(known) <= seen, f"{room} knows {set(known) - seen}, which come after it"
        seen.add(room)


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_module_imports_only_what_its_room_may_know(path: Path) -> None:
    room = room_of(name_of(path))
    for module, name in own_imports_of(path):
        other = room_of(module)
        is_own_door = path.name == "__init__.py" and other.startswith(f"{room}.")
        assert other == room or is_own_door or other in ARROWS[room], f"{room} may not know {module} ({name})"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_module_comes_to_other_rooms_through_their_door(path: Path) -> None:
    """An inner room names the files of its own package directly: the door is not open before they are."""
    own = name_of(path).split(".")
    for module, name in own_imports_of(path):
        other = room_of(module)
        if other == room_of(name_of(path)) or other not in PACKAGES or own[: other.count(".") + 1] == other.split("."):
            continue
        wanted = name if module == other else module.removeprefix(f"{other}.")
        assert wanted in offers_of(other), f"{other}/__init__.py does not offer {wanted}"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_library_is_known_only_where_it_belongs(path: Path) -> None:
    room = room_of(name_of(path))
    for module, _ in imports_of(path):
        top = module.partition(".")[0]
        assert room in ONLY_IN.get(top, room), f"{room} may not use {top}"
        assert top not in NEVER_IMPORTED


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_holds_what_a_head_can_hold(package: str) -> None:
    files = {path.name for path in (ROOT / package.replace(".", "/")).glob("*.py")} - {"__init__.py"}
    assert len(files) <= MOST_FILES, f"{package} holds {len(files)} files: give it an inner room"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_door_offers_nothing_that_nobody_takes(package: str) -> None:
    public = {"fedmq", "broker", "learning", "simulation", "worker", "aggregator"}  # for people's own code, too
    taken = set()
    for path in [*SOURCES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("examples/*.py")]:
        for module, name in own_imports_of(path):
            taken.add(name if module == package else module.removeprefix(f"{package}."))
    if package not in public:
        assert offers_of(package) <= taken, f"nobody takes {offers_of(package) - taken}"


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
    assert not set(TOPS) & set(sys.stdlib_module_names)


def test_every_package_that_is_there_is_a_room_that_is_installed_and_checked() -> None:
    assert sorted({name_of(path.parent) for path in SOURCES}) == PACKAGES
    assert PROJECT["tool"]["setuptools"]["packages"] == PACKAGES
    assert PROJECT["tool"]["mypy"]["packages"] == TOPS
    assert sorted(OUR_PACKAGES) == TOPS
    for package in PACKAGES:
        assert (ROOT / package.replace(".", "/") / "__init__.py").is_file()
    for package in TOPS:
        assert (ROOT / package / "py.typed").is_file()


def test_the_image_is_built_with_every_package() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert {f"!{name}" for name in TOPS} <= set(lines)


def test_the_sections_of_a_settings_file_are_those_of_commands() -> None:
    assert {f"fl-{name}" for name in SECTIONS} <= PROJECT["project"]["scripts"].keys()


@pytest.mark.parametrize("command", sorted(PROJECT["project"]["scripts"].items()), ids=lambda command: command[0])
def test_every_command_is_a_function_that_is_there(command: tuple[str, str]) -> None:
    for module, function in (command[1].split(":"), (_module_run_by(command[1]), "main")):
        path = ROOT / f"{module.replace('.', '/')}.py"
        assert function in {node.name for node in tree_of(path).body if isinstance(node, ast.FunctionDef)}


def _module_run_by(entry: str) -> str:
    """The module that a function of ``starting`` imports and runs."""
    module, _, function = entry.partition(":")
    found = next(
        node for node in tree_of(ROOT / f"{module.replace('.', '/')}.py").body if getattr(node, "name", "") == function
    )
    return next(
        node.value for node in ast.walk(found) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@pytest.mark.parametrize(
    "command",
    [
        "operations.status_cli",
        "operations.dead_cli",
        "operations.keys_cli",
        "keeper.cli",
        "operations.runs.run_cli",
        "privacy.planning.cli",
        "scaffold.cli",
    ],
)
def test_a_command_that_trains_nothing_does_not_wait_for_pytorch(command: str) -> None:
    code = f"import sys, {command}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_an_aggregator_begins_without_what_only_its_report_needs() -> None:
    code = "import sys, aggregator.cli; sys.exit('jinja2' in sys.modules)"
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
        for module, _ in imports_of(path):
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in TOPS:
                assert renamed.get(top, top) in declared, f"{path.relative_to(ROOT)} imports {top}"


def _requirements() -> list[str]:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    of_the_product = ("demo", "fast", "tensorboard", "mlflow")
    return [*project["dependencies"], *(name for extra in of_the_product for name in extras[extra])]
