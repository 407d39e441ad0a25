"""fl-simulate with masked updates: the plain run's model, whoever trains where, whatever breaks off; nobody's own."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from aggregator.events import Event, RoundClosed
from aggregator.history import History
from console.errors import IdentityError, SettingsError
from simulation import simulate
from simulation.cli import main

TASK = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from learning import Split, Supervised
from learning.partition import part_of


def samples(number, seed):
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 4, generator=random)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def data(site):
    if site.is_aggregator:
        return Split(test=samples(50, 1))
    inputs, labels = samples(200, 2)
    part = part_of(labels.numpy(), site)
    return Split(train=(inputs[part], labels[part]))


task = Supervised(model=lambda: nn.Linear(4, 3), data=data, loss=cross_entropy)
"""
SECURE = {"privacy": "secure", "min_sites": 3}
ROUNDS = 4


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "masked_task.py"
    path.write_text(TASK, encoding="utf-8")
    return f"{path}:task"


def run(task: str, state: Path, **settings: Any) -> History:
    return simulate(task, workers=4, rounds=ROUNDS, state=state, **settings)


def digest(history: History) -> str:
    return str((history.summary or {})["final"]["model_sha256"])


def final(state: Path) -> np.ndarray[Any, Any]:
    tensors = load_file(state / "models" / f"round-{ROUNDS:05}.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def test_a_masked_run_ends_with_the_plain_one_s_model_to_a_millionth(task: str, tmp_path: Path) -> None:
    run(task, tmp_path / "plain")
    run(task, tmp_path / "masked", **SECURE)
    assert np.abs(final(tmp_path / "plain") - final(tmp_path / "masked")).max() < 1e-6
    uniform = {"weighting": "uniform"}
    run(task, tmp_path / "uniform", **uniform)
    run(task, tmp_path / "ring32", **SECURE, **uniform, ring="ring32", most_updates=4)
    assert np.abs(final(tmp_path / "uniform") - final(tmp_path / "ring32")).max() < 1e-5


def test_the_same_masked_run_has_the_same_bits_again_with_more_keepers_and_more_processes(
    task: str, tmp_path: Path
) -> None:
    once = digest(run(task, tmp_path / "a", **SECURE))
    assert digest(run(task, tmp_path / "b", **SECURE)) == once
    assert digest(run(task, tmp_path / "c", **SECURE, keeper="ethics,council,ward")) == once
    argv = ["--task", task, "--workers", "4", "--rounds", str(ROUNDS), "--no-baselines", "--jobs", "2"]
    argv += ["--privacy", "secure", "--min-sites", "3", "--state", str(tmp_path / "d"), "--inline-cap", "0"]
    assert main(argv) == 0
    assert json.loads((tmp_path / "d" / "summary.json").read_text())["final"]["model_sha256"] == once


class Stopped(BaseException):
    """Nothing in between catches it."""


@pytest.mark.parametrize("point", ["keeper.ledger:Ledger.charge", "keeper.answers:Answers.release", "round closed"])
def test_a_masked_run_that_is_broken_off_goes_on_with_the_same_members_to_the_same_bits(
    point: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digest(run(task, tmp_path / "whole", **SECURE))

    def stops(*args: object, **more: object) -> None:
        raise Stopped

    def on_event(event: Event) -> None:
        if isinstance(event, RoundClosed) and event.row["round"] == 2 and point == "round closed":
            raise Stopped

    with monkeypatch.context() as broken:
        if point != "round closed":
            module, _, name = point.partition(":")
            broken.setattr(f"{module}.{name}", stops)
        with pytest.raises(Stopped):
            run(task, tmp_path / "broken", **SECURE, on_event=on_event)
    assert digest(run(task, tmp_path / "broken", **SECURE)) == expected
    with closing(sqlite3.connect(tmp_path / "broken" / "keeper-keeper" / "keeper.db")) as ledger:
        rows = ledger.execute("SELECT round, num_updates, num_sites FROM releases ORDER BY round").fetchall()
    assert rows == [(number, 4, 4) for number in range(1, ROUNDS + 1)]


def test_no_worker_s_own_numbers_are_anywhere_in_a_masked_run_s_state(task: str, tmp_path: Path) -> None:
    history = run(task, tmp_path / "masked", **SECURE)
    updates = list(history.updates())
    assert len(updates) == 4 * ROUNDS
    for row in updates:
        assert not row.get("train_metrics")
        assert row["num_samples"] in (None, 1)


def test_a_site_named_like_another_member_is_refused_in_one_line(task: str, tmp_path: Path) -> None:
    for name in ("keeper", "aggregator"):
        with pytest.raises(SettingsError, match=f"{name} is the name of a site and of another member"):
            simulate(task, sites={name: {}, "b": {}, "c": {}}, rounds=1, state=tmp_path / name, **SECURE)
    with pytest.raises(IdentityError, match="could be of site"):
        simulate(task, sites={"b": {}, "b-1": {}, "c": {}}, rounds=1, state=tmp_path / "b", **SECURE)
