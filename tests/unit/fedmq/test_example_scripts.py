"""The scripts of examples/scripts/ that need libraries of others, each as the only site of a run."""

import importlib.util
import os
from pathlib import Path

import pytest
from script_run import Run

from learning.scripts import ScriptedModel, run_script

pytest_plugins = ["script_run_plugin"]
SCRIPTS = Path(__file__).parents[3] / "examples" / "scripts"


def needs(module: str) -> pytest.MarkDecorator:
    """Skips where the extra `examples` is not installed; `make test` installs it."""
    is_missing = importlib.util.find_spec(module) is None and "FEDMQ_REQUIRE_BROKER" not in os.environ
    return pytest.mark.skipif(is_missing, reason=f"{module} is in the extra `examples`")


pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]  # warnings of the libraries' own


def learn(run: Run, script: Path, metric: str, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The metric of the model after each round, as the script measured it."""
    monkeypatch.setenv("FEDMQ_NAME", "site-a")
    run.begins(ScriptedModel(script), rounds=4)
    assert run_script(script, ())
    run.ends()
    return [float(str(row[f"eval.{metric}"])) for row in run.history()]


@needs("pytorch_lightning")
def test_a_lightning_module_learns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = learn(run, SCRIPTS / "with_lightning.py", "loss", monkeypatch)
    assert losses[-1] < losses[0] / 2


@needs("monai")
def test_a_u_net_of_monai_s_learns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    overlaps = learn(run, SCRIPTS / "segmentation.py", "dice", monkeypatch)
    assert overlaps[-1] > overlaps[0] + 0.2
