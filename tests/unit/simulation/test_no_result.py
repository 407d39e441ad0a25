"""A simulation that learned nothing does not end as if it had."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulation.cli import main

TASK = """
import torch
from torch import nn


class Diverges:
    '''Its training gives NaN, in the rounds from 1 on, or from the one that its argument says.'''

    def __init__(self, site):
        self.site = site

    def model(self):
        return nn.Linear(2, 1, bias=False)

    def train(self, model, plan):
        with torch.no_grad():
            model.weight.fill_(1.0 if plan.round < int(self.site.args["first"]) else float("nan"))
        return {"num_samples": 1}

    def evaluate(self, model):
        return {}
"""


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """The command takes Ctrl-C and SIGTERM over; the test run wants them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("first", "code"), [(1, 3), (2, 0)])
def test_a_run_whose_workers_only_diverged_ends_with_3_each_time_it_is_started(
    first: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, state = tmp_path / "diverging.py", tmp_path / "run"
    path.write_text(TASK, encoding="utf-8")
    flags = ["--task", f"{path}:Diverges", "--workers", "2", "--rounds", "2", "--jobs", "1", "--no-live"]
    for _ in range(2):
        assert main([*flags, "--state", str(state), "--task-arg", f"first={first}"]) == code
        said = capsys.readouterr().err
        assert ("the run has no result: in 2 rounds no update was folded, 4 times a worker diverged" in said) == bool(
            code
        )
        assert "Traceback" not in said
    assert len(json.loads((state / "summary.json").read_text(encoding="utf-8"))["rounds"]) == 2
    assert (state / "report.html").is_file()
