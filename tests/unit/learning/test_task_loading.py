"""From the text of `--task` to a Task, and what is said when that fails."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from console.errors import TaskError
from learning import Site, load_task

SITE = Site(name="w0")

TASK = """
    class Mine:
        def __init__(self, site):
            self.site = site

        def model(self): ...
        def train(self, model, plan): ...
        def evaluate(self, model): ...

    def make(site):
        return Mine(site)

    ready = Mine("built at import")
    number = 5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, empty; the import system is as before when the test is over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(path: str, text: str = TASK) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(dedent(text))
    return path


def refusal(reference: str, site: Site = SITE) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(reference, site)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["Mine", "make"])
def test_a_class_or_function_of_a_file_is_called_with_the_site(name: str) -> None:
    task = load_task(f"{write('tasks/my_task.py')}:{name}", SITE)

    assert task.site is SITE  # type: ignore[attr-defined]


def test_an_object_that_is_a_task_is_taken_as_it_is() -> None:
    assert load_task(f"{write('my_task.py')}:ready", SITE).site == "built at import"  # type: ignore[attr-defined]


def test_a_module_of_the_current_directory_is_found() -> None:
    write("module_in_this_folder.py")

    assert load_task("module_in_this_folder:Mine", SITE).site is SITE  # type: ignore[attr-defined]
    assert sys.path[-1] == str(Path.cwd())


def test_a_file_is_registered_under_a_name_of_its_own_and_executed_once() -> None:
    first = load_task(f"{write('one/broker.py')}:Mine", SITE)
    again = load_task("one/broker.py:Mine", SITE)
    other = load_task(f"{write('two/broker.py')}:Mine", SITE)

    assert type(first) is type(again)
    assert type(first) is not type(other)
    assert all(type(task).__module__ in sys.modules for task in (first, other))
    assert "Transport" in dir(importlib.import_module("broker"))


def test_a_file_may_import_what_lies_beside_it() -> None:
    write("tasks/beside_the_task.py")
    write("tasks/my_task.py", "from beside_the_task import Mine")

    assert load_task("tasks/my_task.py:Mine", SITE).site is SITE  # type: ignore[attr-defined]


@pytest.mark.parametrize("reference", ["digitz", "", ":", "my_task.py", "my_task.py:", ":Mine"])
def test_an_unknown_name_is_answered_with_the_known_ones_and_the_accepted_forms(reference: str) -> None:
    message = refusal(reference)

    for word in (repr(reference), "digits", "breast-cancer", "module:object", "path/file.py:object"):
        assert word in message


def test_a_missing_file_is_named_with_the_folder_it_was_looked_for_from(folder: Path) -> None:
    message = refusal("tasks/nowhere.py:Mine")

    assert "tasks/nowhere.py" in message
    assert str(folder) in message


@pytest.mark.parametrize("reference", ["no_such_module:task", "json.no_such_module:task"])
def test_a_missing_module_is_told_from_one_that_a_module_misses(reference: str) -> None:
    assert "no module named" in refusal(reference)


def test_an_import_that_fails_inside_a_module_is_shown_with_its_line() -> None:
    write("needs_another.py", "import os\nimport no_such_module\n")
    message = refusal("needs_another:task")

    assert "ModuleNotFoundError: No module named 'no_such_module'" in message
    assert "needs_another.py:2" in message


@pytest.mark.parametrize("name", ["broker", "worker", "aggregator", "learning", "simulation"])
def test_a_module_named_like_one_of_ours_is_refused_with_the_path_form(name: str) -> None:
    write(f"{name}.py")

    assert f"{name}.py:Mine" in refusal(f"{name}:Mine")
    assert load_task(f"{name}.py:Mine", SITE).site is SITE  # type: ignore[attr-defined]


def test_a_missing_object_is_answered_with_what_the_module_has() -> None:
    message = refusal(f"{write('my_task.py')}:task")

    assert "'task'" in message
    assert "Mine, make, ready, number" in message


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        ("x = 1\ny = 1 / 0\n", "ZeroDivisionError: division by zero", 2),
        ("x = 1\n\nif x\n", "SyntaxError", 3),
        ("import json\njson.loads('{')\n", "JSONDecodeError", 2),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines", 1),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3", 2),
    ],
)
def test_whatever_a_file_raises_is_shown_with_type_message_and_its_own_line(text: str, error: str, line: int) -> None:
    message = refusal(f"{write('my_task.py', text)}:task")

    assert error in message
    assert f"my_task.py:{line}" in message


def test_a_file_that_failed_is_executed_anew_after_a_correction() -> None:
    refusal(f"{write('my_task.py', 'corrected = not 1 / 0')}:Mine")
    write("my_task.py")

    assert load_task("my_task.py:Mine", SITE).site is SITE  # type: ignore[attr-defined]


def test_a_constructor_that_raises_is_shown_with_its_line() -> None:
    write("my_task.py", "def task(site):\n    return site.nmae\n")
    message = refusal("my_task.py:task")

    assert "AttributeError" in message
    assert "my_task.py:2" in message


def test_a_task_error_of_the_users_own_passes_as_it_is() -> None:
    write("my_task.py", "from console.errors import TaskError\ndef task(site): raise TaskError('mount the disk')")

    assert refusal("my_task.py:task") == "mount the disk"


def test_a_callable_that_takes_no_site_is_told_so() -> None:
    write("my_task.py", "class Task:\n    pass\n")

    assert "must take one argument, the site" in refusal("my_task.py:Task")


@pytest.mark.parametrize(
    "text",
    [
        "class T:\n    train = model = print\n    def __init__(self, site): ...\n",
        "class C:\n    train = evaluate = print\n    model = print\n    evaluate = None\n\nT = C()\n",
    ],
)
def test_a_missing_method_is_named(text: str) -> None:
    message = refusal(f"{write('my_task.py', text)}:T")

    assert "lacks evaluate();" in message


def test_something_that_is_no_task_at_all_is_refused_with_its_type() -> None:
    assert "(of type int) lacks model(), train(), evaluate()" in refusal(f"{write('my_task.py')}:number")


def test_an_unknown_partition_is_refused_before_any_data_are_loaded() -> None:
    assert "dirichlet:ALPHA" in refusal("digits", Site(name="w0", partition="dirichlet"))


def test_built_in_tasks_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert "pip install 'fedmq[demo]'" in refusal("digits")


def test_a_file_of_a_package_may_use_relative_imports() -> None:
    write("mine/__init__.py", "SIZE = 3")
    write("mine/parts/__init__.py", "")
    write("mine/parts/worker.py", "class Net: ...")
    write("mine/data.py", "from . import SIZE")
    text = "from .worker import Net\nfrom ..data import SIZE\n\n\n" + dedent(TASK)

    task = load_task(f"{write('mine/parts/my_task.py', text)}:Mine", SITE)

    module = sys.modules[type(task).__module__]
    assert (module.SIZE, module.Net.__name__) == (3, "Net")  # type: ignore[attr-defined]
    assert type(load_task("mine/parts/my_task.py:Mine", SITE)) is type(task)


def test_a_file_in_a_plain_folder_may_use_relative_imports() -> None:
    write("plain/console.py", dedent(TASK))

    assert load_task(f"{write('plain/my_task.py', 'from .console import Mine')}:Mine", SITE).site is SITE  # type: ignore[attr-defined]


def test_a_package_of_the_users_that_has_a_name_of_ours_is_searched_after_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learning.__path__", list(sys.modules["learning"].__path__))
    write("learning/net_of_mine.py", dedent(TASK))
    write("beside.py", "from learning.net_of_mine import Mine\nfrom learning import Supervised")
    write("my_task.py", "from beside import Mine")

    assert load_task("my_task.py:Mine", SITE).site is SITE  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("file", "line", "name"),
    [
        ("worker.py", "import worker", "worker"),
        ("worker.py", "from worker import Net", "worker"),
        ("console.py", "import console", "console"),
        ("learning/__init__.py", "from learning import Net", "learning"),
        ("learning/task.py", "from learning.task import Net", "learning.task"),
    ],
)
def test_an_import_that_would_get_ours_instead_of_the_users_own_is_refused(file: str, line: str, name: str) -> None:
    write(f"shadowed/{file}", "class Net: ...")
    message = refusal(f"{write('shadowed/my_task.py', f'import os{chr(10)}{line}')}:Mine")

    assert f"my_task.py:2 imports {name!r}, a name of fedmq's own, and " in message
    assert "write a relative import" in message


def test_our_own_names_are_ours_where_the_user_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    write("learning/other.py", "")
    write("my_task.py", "from learning import Supervised\nfrom learning.split import Split\n" + dedent(TASK))

    assert load_task("my_task.py:Mine", SITE).site is SITE  # type: ignore[attr-defined]
