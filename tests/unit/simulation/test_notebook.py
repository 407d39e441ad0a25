"""A simulation from Python, as in a notebook."""

import json
import runpy
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from aggregator.events import Event, RoundClosed
from console.errors import SettingsError, StateError, TaskError
from learning import Site, load_task
from simulation import simulate
from simulation.cli import main

ROOT = Path(__file__).parents[3]
OWN_TASK = ROOT / "examples" / "own_task.py"
SETTINGS: dict[str, Any] = {"workers": 3, "rounds": 2, "seed": 5}


@pytest.fixture
def spirals() -> Any:
    return runpy.run_path(str(OWN_TASK))["Spirals"]


def test_the_same_settings_give_the_bits_of_the_command(spirals: Any, tmp_path: Path) -> None:
    flags = ["--workers", "3", "--rounds", "2", "--seed", "5", "--no-baselines", "--state", str(tmp_path / "command")]
    assert main(["--task", f"{OWN_TASK}:Spirals", *flags]) == 0
    wanted = json.loads((tmp_path / "command" / "summary.json").read_text())["final"]["model_sha256"]
    with simulate(f"{OWN_TASK}:Spirals", state=tmp_path / "text", **SETTINGS) as history:
        assert history.rounds()[-1]["model_sha256"] == wanted
    with simulate(spirals, state=tmp_path / "object", **SETTINGS) as history:
        assert history.rounds()[-1]["model_sha256"] == wanted
    assert (tmp_path / "object" / "report.html").stat().st_size > 1e4


def test_a_run_in_a_directory_goes_on_and_its_model_can_be_loaded(spirals: Any, tmp_path: Path) -> None:
    simulate(spirals, state=tmp_path, **SETTINGS).close()
    closed: list[int] = []

    def look(event: Event) -> None:
        if isinstance(event, RoundClosed):
            closed.append(event.row["round"])

    num_threads = torch.get_num_threads()
    with simulate(spirals, state=tmp_path, on_event=look, **(SETTINGS | {"rounds": 4})) as history:
        assert closed == [3, 4]
        assert [row["round"] for row in history.rounds()] == [1, 2, 3, 4]
        model = history.load_model(spirals(Site()).model())
        assert spirals(Site()).evaluate(model)["accuracy"] == pytest.approx(history.rounds()[-1]["accuracy"])
    assert torch.get_num_threads() == num_threads


def test_deterministic_algorithms_are_chosen_while_it_trains_and_not_afterwards(spirals: Any, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watched(spirals):  # type: ignore[misc]
        def train(self, model: Any, plan: Any) -> Any:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().train(model, plan)

    simulate(Watched, state=tmp_path, deterministic=True, **SETTINGS).close()
    assert seen == [True] * 6
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_curves_of_a_run_are_a_figure_that_a_notebook_shows(spirals: Any, tmp_path: Path) -> None:
    with simulate(spirals, state=tmp_path, **SETTINGS) as history:
        figure = history.plot()
    assert {trace.name for trace in figure.data} >= {"global model, central test data"}
    assert [len(trace.x) for trace in figure.data] == [2, 1]  # the sites measured the model after round 1


def test_an_error_of_a_worker_is_raised_and_leaves_no_file_open(spirals: Any, tmp_path: Path) -> None:
    class Failing(spirals):  # type: ignore[misc]
        def train(self, model: Any, plan: Any) -> Any:
            raise ValueError("no data here")

    with pytest.raises(
        TaskError, match=r"^worker-0: the task's train\(\) raised ValueError: no data here \(.*test_notebook"
    ):
        simulate(Failing, state=tmp_path, **SETTINGS)
    assert [file.path for file in psutil.Process().open_files() if file.path.startswith(str(tmp_path))] == []


def test_what_is_wrong_is_said(spirals: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--workers: .*greater than or equal to 1"):
        simulate(spirals, workers=0)
    with pytest.raises(SettingsError, match="--colour"):
        simulate(spirals, colour="red")
    with pytest.raises(SettingsError, match="jobs is for the command"):
        simulate(spirals, jobs=2)
    with pytest.raises(TaskError, match=r"lacks model\(\)"):
        simulate(object(), state=tmp_path / "none")
    simulate(spirals, state=tmp_path / "run", **SETTINGS).close()
    with pytest.raises(StateError, match="--seed 5, not 6"):
        simulate(spirals, state=tmp_path / "run", **(SETTINGS | {"seed": 6}))


def test_the_example_for_notebooks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(ROOT / "examples" / "notebook.py"))
    assert names["accuracy"] == pytest.approx(names["history"].rounds()[-1]["accuracy"])
    assert names["accuracy"] > 0.9
    assert (tmp_path / "curves.html").exists()
    names["history"].close()
    assert load_task("digits", Site()).evaluate(names["model"])["accuracy"] == pytest.approx(names["accuracy"])
