"""A simulation whose model begins with the tensors of a file, and so does what it is compared with."""

import json
from pathlib import Path
from typing import Any

import pytest

from console import SettingsError
from operations.runs.model_cli import main as fl_model
from simulation import simulate
from simulation.cli import main

TASK = f"{Path(__file__).parents[3] / 'examples' / 'own_task.py'}:Spirals"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The model of another run."""
    simulate(TASK, workers=2, rounds=2, seed=5, state=tmp_path / "first").close()
    file = tmp_path / "model.safetensors"
    assert fl_model(["export", str(tmp_path / "first"), "--to", str(file)]) == 0
    return file


def summary_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return loaded


def test_run_and_comparison_begin_with_the_file(trained: Path, tmp_path: Path) -> None:
    """With steps too small to change a bit, all end with the model that they began with."""
    state = tmp_path / "second"
    flags = ["--task", TASK, "--workers", "2", "--lr", "1e-30", "--init", str(trained), "--state", str(state)]
    assert main([*flags, "--rounds", "1"]) == 0
    before, after = summary_of(tmp_path / "first"), summary_of(state)
    assert after["final"]["model_sha256"] == before["final"]["model_sha256"]
    assert after["baselines"]["single_mean"]["accuracy"] == before["final"]["metrics"]["accuracy"]
    with simulate(TASK, workers=2, rounds=1, lr=1e-30, init=trained, state=tmp_path / "python") as history:
        assert history.rounds()[-1]["model_sha256"] == after["final"]["model_sha256"]

    trained.unlink()
    assert main([*flags, "--rounds", "2"]) == 0
    reason = "no comparison with single sites: the file that the run began with (--init) is not there any more"
    assert summary_of(state)["baselines"] == {"none": reason}


def test_a_file_that_cannot_be_used_is_one_line_and_the_code_of_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--task", TASK, "--workers", "2", "--rounds", "1"]
    for file, problem in (("nowhere.safetensors", "cannot be read: "), ("model.pt", "takes a .safetensors file")):
        assert main([*flags, "--init", str(tmp_path / file), "--state", str(tmp_path / file[:3])]) == 2
        said = capsys.readouterr().err
        assert problem in said
        assert "Traceback" not in said
    with pytest.raises(SettingsError, match=r"takes a \.safetensors file"):
        simulate(TASK, init="model.pt")
