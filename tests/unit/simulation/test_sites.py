"""The sites of a simulation, by number or from a file, and what their tasks are given."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from console import Arguments, SettingsError
from simulation import simulate
from simulation.cli import main
from simulation.settings import SimulationSettings
from simulation.sites import SimulatedSites

TASK = """
import torch
from torch import nn


class Adds:
    '''Adds what its site, its run and its number of rounds say; so the model tells what each task was given.'''

    def __init__(self, site):
        self.site = site

    def model(self):
        return nn.Linear(2, 1, bias=False)

    def train(self, model, plan):
        with torch.no_grad():
            model.weight[0, 0] += float(self.site.args["step"]) * float(plan.args["factor"])
            model.weight[0, 1] += plan.num_rounds
        return {"num_samples": 1}

    def evaluate(self, model):
        if self.site.is_aggregator:
            first, second = model.weight[0].tolist()
            return {"first": first - float(self.site.args.get("offset", 0)), "second": second}
        return {}
"""


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """The command takes Ctrl-C and SIGTERM over; the test run wants them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "adding_task.py"
    path.write_text(TASK, encoding="utf-8")
    return f"{path}:Adds"


def sites(tmp_path: Path, text: str, *, name: str = "sites.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_of_sites_is_yaml_or_csv(tmp_path: Path) -> None:
    as_yaml = sites(tmp_path, "north: {step: 1, csv: 'a.csv'}\nsouth:\n  step: 2\nwest:\n")
    as_csv = sites(tmp_path, "name,step,csv\nnorth,1,a.csv\nsouth, 2,\nwest,,\n", name="sites.csv")
    for path in (as_yaml, as_csv):
        parsed = SimulatedSites.parse(path)
        assert parsed.names == ("north", "south", "west")
        assert parsed.site(0, "iid", Arguments({"step": "9"})).args == {"step": "1", "csv": "a.csv"}
        assert parsed.site(2, "iid", Arguments({"step": "9"})).args == {"step": "9"}
        assert (parsed.site(1, "iid").index, parsed.site(1, "iid").num_sites) == (1, 3)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("sites.csv", "site,step\nnorth,1\n", "one of them `name`"),
        ("sites.csv", "name,step\nnorth,1\nnorth,2\n", "line 3: site 'north' is there twice"),
        ("sites.csv", "name,step\nnorth,1,2\n", "line 2 has more fields"),
        ("sites.csv", "name\n", "it has 0 sites"),
        ("sites.yaml", "- north\n", "expected a mapping"),
        ("sites.yaml", "north: [1]\n", "site 'north' has [1]"),
        ("sites.yaml", "north: {2nd: 1}\n", "site 'north': '2nd' cannot name an argument"),
        ("sites.yaml", "'no rth': {}\n", "'no rth' cannot name a site"),
        ("sites.yaml", "north: {\n", "not YAML"),
        ("sites.yaml", "north: {step: 1}\nnorth: {step: 2}\n", "site 'north' is there twice"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_clear_line(
    name: str, text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--sites", sites(tmp_path, text, name=name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fl-simulate: --sites: ")
    assert told in said
    assert said.count("\n") == 1


def test_another_number_of_workers_than_sites_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sites(tmp_path, "north:\nsouth:\n")
    assert SimulationSettings(sites=path).workers == 2  # type: ignore[arg-type]
    assert main(["--sites", path, "--workers", "3"]) == 2
    assert "--workers 3, but --sites has 2; leave --workers out" in capsys.readouterr().err


@pytest.mark.timeout(120)
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_each_task_gets_the_arguments_of_its_site_and_of_the_run(jobs: str, task: str, tmp_path: Path) -> None:
    path = sites(tmp_path, "north: {step: 1}\nsouth: {step: 4}\nwest:\n")
    argv = ["--task", task, "--sites", path, "--task-arg", "step=7", "--plan-arg", "factor=0.5", "--no-baselines"]
    argv += ["--rounds", "2", "--jobs", jobs, "--state", str(tmp_path / "run"), "--task-arg", "offset=100"]
    assert main(argv) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    before, after = (round_["metrics"] for round_ in summary["rounds"])
    assert after["first"] - before["first"] == pytest.approx((1 + 4 + 7) * 0.5 / 3, abs=1e-5)
    assert after["second"] - before["second"] == pytest.approx(2, abs=1e-5)
    assert before["first"] == pytest.approx(2 - 100, abs=1)
    assert summary["settings"]["plan_args"] == {"factor": "0.5"}


def test_sites_may_be_given_from_python(task: str, tmp_path: Path) -> None:
    history = simulate(
        task,
        sites={"north": {"step": 1}, "south": {"step": 3}},
        plan_args={"factor": 1},
        rounds=1,
        state=tmp_path / "run",
    )
    assert sorted(row["worker"] for row in history.updates()) == ["north", "south"]


def test_a_task_that_lacks_its_argument_says_which(task: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"--task-arg step=VALUE"):
        simulate(task, workers=1, plan_args={"factor": "1"}, rounds=1, state=tmp_path / "run")
    with pytest.raises(SettingsError, match="--plan-arg: 'a b' cannot name an argument"):
        simulate(task, workers=1, plan_args={"a b": "1"}, rounds=1, state=tmp_path / "other")
