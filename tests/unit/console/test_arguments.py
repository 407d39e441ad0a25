"""Arguments for a task: where they come from, what is told when they are wrong."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from aggregator.settings import AggregatorSettings
from console import Arguments, MissingArgument, SettingsError
from console.settings import environment_of, read_settings
from learning import Plan, Site
from worker.settings import WorkerSettings


def read(*argv: str, kind: type[Any] = WorkerSettings) -> Any:
    return read_settings(kind, argv, prog="fl-worker", description="Tests.", examples="  fl-worker")


def test_a_flag_for_each_argument_takes_any_text() -> None:
    given = read("--task-arg", "csv=/data/a,b.csv", "--name", "north", "--task-arg=query=a=1 AND b='x'")
    assert given.task_args == {"csv": "/data/a,b.csv", "query": "a=1 AND b='x'"}
    assert given.name == "north"
    assert given.site_of("north").args["csv"] == "/data/a,b.csv"


def test_arguments_are_read_from_flag_before_environment_before_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "worker.yaml"
    path.write_text("task_args:\n  csv: a.csv\n  folds: 5\n  shuffle: true\n", encoding="utf-8")
    assert read("--config", str(path)).task_args == {"csv": "a.csv", "folds": "5", "shuffle": "true"}
    monkeypatch.setenv("FEDMQ_TASK_ARGS", "csv=b.csv,folds=3")
    assert read("--config", str(path)).task_args == {"csv": "b.csv", "folds": "3"}
    monkeypatch.setenv("FEDMQ_TASK_ARGS", '{"csv": "b,c.csv"}')
    assert read("--config", str(path)).task_args == {"csv": "b,c.csv"}
    assert read("--config", str(path), "--task-arg", "csv=c.csv").task_args == {"csv": "c.csv"}


def test_what_is_read_is_read_again_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = read("--task-arg", 'csv=a,"b".csv', "--task-arg", "empty=")
    for name, value in environment_of(given, ["task_args"]).items():
        monkeypatch.setenv(name, value)
    assert read().task_args == given.task_args == {"csv": 'a,"b".csv', "empty": ""}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--task-arg", "csv"), "--task-arg: expected name=value, not 'csv'"),
        (("--task-arg",), "--task-arg: expected name=value"),
        (("--task-arg", "2nd=x"), "--task-arg: '2nd' cannot name an argument"),
        (("--task-arg", "a=1", "--task-arg", "a=2"), "--task-arg: 'a' is given twice"),
        (("--task-arg", f"a={'x' * 1025}"), "has 1025 characters; at most 1024"),
        (tuple(f"--task-arg=a{number}=x" for number in range(65)), "65 arguments are too many; at most 64"),
    ],
)
def test_a_typo_in_the_form_is_one_clear_line(argv: tuple[str, ...], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(*argv)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["csv=a,b", "{csv", '{"csv": ["a"]}', '{"csv": null}'])
def test_a_variable_that_is_no_arguments_is_one_clear_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_TASK_ARGS", text)
    with pytest.raises(SettingsError, match="--task-arg: ") as caught:
        read()
    assert "\n" not in str(caught.value)


def test_options_of_a_run_are_part_of_its_local_training() -> None:
    given = read("--plan-arg", "temperature=0.5", "--task-arg", "test=t.csv", "--lr", "0.1", kind=AggregatorSettings)
    assert given.local.plan_args == {"temperature": "0.5"}
    assert given.config.recorded["plan_args"] == {"temperature": "0.5"}
    assert given.config.recorded["task_args"] == {"test": "t.csv"}


def test_an_argument_that_is_not_there_says_how_to_give_it() -> None:
    site, plan = Site(name="north", args=Arguments({"csv": "a.csv"})), Plan(round=1, seed=0, lr=0.1)
    with pytest.raises(MissingArgument) as caught:
        site.args["table"]
    assert str(caught.value) == (
        "the task asks for the argument 'table', and given are csv; start with --task-arg table=VALUE"
    )
    with pytest.raises(KeyError, match="--plan-arg temperature=VALUE"):
        plan.args["temperature"]
    assert (site.args.get("table"), "table" in site.args, plan.args.get("temperature", "1")) == (None, False, "1")


def test_arguments_cannot_be_changed_and_go_to_other_processes() -> None:
    args = Site(name="north", args=Arguments({"csv": "a.csv"})).args
    with pytest.raises(TypeError):
        args["csv"] = "b.csv"  # type: ignore[index]
    ours, theirs = multiprocessing.Pipe()
    ours.send(args)
    assert theirs.recv() == {"csv": "a.csv"}
