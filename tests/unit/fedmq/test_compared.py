"""One script, federated with fedmq, NVFLARE and Flower: what the documents say of it."""

import difflib
import re
from pathlib import Path

import pytest
import torch
from script_run import Run

from learning.scripts import ScriptedModel, run_script

pytest_plugins = ["script_run_plugin"]
pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).parents[3]
COMPARED = ROOT / "examples" / "compared"


def changed(script: str) -> tuple[int, int]:
    """The lines that are new and those that are gone beside `alone.py`, without blank ones."""
    before, after = ((COMPARED / name).read_text(encoding="utf-8").splitlines() for name in ("alone.py", script))
    lines = [line for line in difflib.ndiff(before, after) if line[2:].strip()]
    return sum(line.startswith("+ ") for line in lines), sum(line.startswith("- ") for line in lines)


@pytest.mark.parametrize("script", ["with_fedmq.py", "with_nvflare.py", "with_flower.py"])
def test_the_documents_say_how_many_lines_each_needs(script: str) -> None:
    page = (ROOT / "docs" / "scripts.md").read_text(encoding="utf-8")
    (said,) = re.findall(rf"`examples/compared/{script}` \| (\d+) \| (\d+) \|", page)
    assert changed(script) == tuple(map(int, said))


def test_at_most_six_lines_of_an_existing_script_change() -> None:
    assert max(changed("with_fedmq.py")) <= 6


def test_the_script_learns_in_a_federation_and_goes_on_after_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_NAME", "north")
    script = COMPARED / "with_fedmq.py"
    run.begins(ScriptedModel(script), rounds=8)
    assert run_script(script, ("--site", "north"))
    run.ends()
    rows = run.history()
    assert float(str(rows[-1]["train.loss"])) < float(str(rows[0]["train.loss"]))
    assert torch.load("north.pt", weights_only=True).keys() == ScriptedModel(script).model().state_dict().keys()
