"""What a simulation does only if it is meant."""

from pathlib import Path

import pytest

from aggregator.history import History
from console.errors import ExitCode, SettingsError
from simulation.cli import main
from simulation.meant import check_number
from simulation.settings import SimulationSettings

TASK = """
from torch import nn

class Task:
    def __init__(self, site): pass
    def model(self): return nn.Linear(1, 1)
    def train(self, model, plan): return {"num_samples": 1}
    def evaluate(self, model): return {}
"""


@pytest.mark.parametrize("is_file", [False, True], ids=["environment", "file"])
def test_rabbitmq_is_used_only_if_a_flag_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_file: bool
) -> None:
    url = "amqp://127.0.0.1:1/"  # where nobody answers
    (tmp_path / "task.py").write_text(TASK, encoding="utf-8")
    flags = ["--task", f"{tmp_path}/task.py:Task", "--workers", "40", "--rounds", "1", "--state", str(tmp_path / "run")]
    if is_file:
        (tmp_path / "run.yaml").write_text(f"broker: {url}\n", encoding="utf-8")
        flags += ["--config", str(tmp_path / "run.yaml")]
    else:
        monkeypatch.setenv("FEDMQ_BROKER", url)
    assert main(flags) == ExitCode.OK
    assert "without RabbitMQ: for that, give --over-rabbitmq" in capsys.readouterr().err
    for meant in (["--broker", url], ["--over-rabbitmq"]):
        assert main([*flags, *meant]) == ExitCode.USAGE
        assert "40 processes on this machine, each with about 200 MB" in capsys.readouterr().err


def test_without_a_broker_there_is_none_to_run_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--over-rabbitmq"]) == ExitCode.USAGE
    assert "set FEDMQ_BROKER" in capsys.readouterr().err


def test_many_processes_are_started_after_a_question_or_if_they_are_meant() -> None:
    asked: list[str] = []
    check_number(32, is_meant=False, ask=None)
    check_number(1000, is_meant=True, ask=None)
    check_number(1000, is_meant=False, ask=lambda question: asked.append(question) or "Y")  # type: ignore[func-returns-value]
    assert asked == ["1,000 processes on this machine, each with about 200 MB of its own. Start them? [y/N] "]
    with pytest.raises(SettingsError, match="nothing was started"):
        check_number(33, is_meant=False, ask=lambda question: "")
    with pytest.raises(SettingsError, match="--many says that this is meant"):
        check_number(33, is_meant=False, ask=None)


def test_a_run_has_the_name_that_it_is_given_and_so_has_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("task.py").write_text(TASK, encoding="utf-8")
    Path("run.yaml").write_text("task: task.py:Task\nrun: hospital\nworkers: 2\nrounds: 1\n", encoding="utf-8")
    assert main(["--config", "run.yaml"]) == ExitCode.OK
    (state,) = Path("runs").iterdir()
    assert state.name.startswith("hospital-2")
    with History(state) as history:
        assert history.facts["run"] == "hospital"
    assert SimulationSettings(state=tmp_path).of_aggregator().run == "simulation"
