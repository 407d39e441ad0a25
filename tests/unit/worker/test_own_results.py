"""What a site keeps of a run for itself: models joined with its own tensors, and its evaluations."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from test_worker_service import CONFIG, STATE, Site
from torch import nn

from broker.memory import MemoryTransport
from broker.states import State
from console import StateError, private_files
from learning import Plan
from worker.config import WorkerConfig
from worker.service import Worker
from worker.settings import WorkerSettings
from worker.state import OnDisk, OwnResults

pytestmark = pytest.mark.timeout(20)
BODY = {"weight": STATE["weight"]}
FOLDER = "site-a/run-demo.1"


class Personal:
    """Its bias is a head of its own, and grows by 1 in each training; ``losses`` are what it measures."""

    def __init__(self, *losses: float) -> None:
        self.losses = list(losses)
        self.measured: list[State] = []

    def model(self) -> nn.Module:
        model = nn.Linear(2, 1)
        nn.init.zeros_(model.bias)
        return model

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        with torch.no_grad():
            model.bias += 1  # type: ignore[operator]
        return {"num_samples": 5}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        self.measured.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"loss": self.losses[len(self.measured) - 1], "num_samples": 2}


def worker_of(site: Site, task: Personal, state: Path | None, **changes: Any) -> Worker:
    """A worker in place of the site's own; it begins as a process that was started again."""
    carried, results = (OnDisk(state, "site-a"), OwnResults(state, "site-a")) if state else (None, None)
    config = WorkerConfig(name="site-a", topology=CONFIG.topology, inline_cap=CONFIG.inline_cap, **changes)
    worker = Worker(config, task, MemoryTransport(site.broker), carried=carried, results=results)
    worker.start()
    worker.step()
    return worker


def publish(site: Site, number: int, **changes: Any) -> None:
    body = {"weight": torch.full((1, 2), float(number))}
    site.publish(number, state=body, shared=("weight",), **changes)


def rows(state: Path) -> list[Any]:
    return [json.loads(line) for line in (state / FOLDER / "evaluations.jsonl").read_text().splitlines()]


def head_of(path: Path) -> float:
    return load_file(path)["bias"].item()


def test_best_and_last_are_the_models_that_were_measured_with_the_site_s_own_tensors(tmp_path: Path) -> None:
    site, task = Site(), Personal(0.5, 0.25, 0.75)
    worker = worker_of(site, task, tmp_path)
    for number in (1, 2, 3):
        publish(site, number)
        worker.step()
    for name, index in (("best", 1), ("last", 2)):
        kept = load_file(tmp_path / FOLDER / f"{name}.safetensors")
        assert {key: value.tolist() for key, value in kept.items()} == {
            key: value.tolist() for key, value in task.measured[index].items()
        }
    assert rows(tmp_path) == [{"round": n, "metrics": {"loss": loss}} for n, loss in enumerate((0.5, 0.25, 0.75))]
    assert len([*(tmp_path / FOLDER).glob("*.tmp")]) == 0


def test_a_loss_that_is_nan_is_written_as_such_and_is_never_the_best(tmp_path: Path) -> None:
    site, task = Site(), Personal(float("nan"), 0.5, float("nan"))
    worker = worker_of(site, task, tmp_path)
    publish(site, 1)
    worker.step()
    assert not (tmp_path / FOLDER / "best.safetensors").exists()
    for number in (2, 3):
        publish(site, number)
        worker.step()
    assert head_of(tmp_path / FOLDER / "best.safetensors") == 1
    assert [row["metrics"]["loss"] for row in rows(tmp_path)] == ["nan", 0.5, "nan"]


@pytest.mark.parametrize("survivor", range(6))
def test_a_kill_at_any_write_leaves_whole_files_and_the_next_start_goes_on(
    survivor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    site = Site()
    worker = worker_of(site, Personal(0.5, 0.25), tmp_path)
    publish(site, 1)
    worker.step()
    renames, replace = iter(range(100)), Path.replace

    def replace_or_die(path: Path, target: Path) -> Path:
        if next(renames) == survivor:
            raise Killed
        return replace(path, target)

    publish(site, 2)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace_or_die)
        try:
            worker.step()
        except Killed:
            pass
        else:
            assert survivor >= 3  # last, best, and what is carried
    assert len(rows(tmp_path)) in (1, 2)
    assert head_of(tmp_path / FOLDER / "best.safetensors") in (0, 1)
    worker_of(site, Personal(0.25), tmp_path)
    assert [row["metrics"]["loss"] for row in rows(tmp_path)] == [0.5, 0.25]
    assert {head_of(tmp_path / FOLDER / f"{name}.safetensors") for name in ("best", "last")} == {1}
    assert {update.sha256 for update in site.updates()} == {site.updates()[0].sha256}


def test_after_a_restart_a_worse_model_does_not_take_the_place_of_the_best(tmp_path: Path) -> None:
    site = Site()
    worker_of(site, Personal(), tmp_path)
    for number, loss in ((1, 0.25), (2, 0.5)):
        publish(site, number)
        worker_of(site, Personal(loss), tmp_path)
    assert head_of(tmp_path / FOLDER / "best.safetensors") == 0
    assert head_of(tmp_path / FOLDER / "last.safetensors") == 1


@pytest.mark.parametrize("has_state", [False, True])
def test_save_model_joins_the_final_model_with_what_stayed_here(has_state: bool, tmp_path: Path) -> None:
    site, file = Site(), tmp_path / "personal.safetensors"
    worker = worker_of(site, Personal(0.5), tmp_path if has_state else None, save_model=file)
    publish(site, 1)
    worker.step()
    assert not file.exists()
    publish(site, 2, is_finished=True)
    worker.run()
    assert load_file(file)["weight"].tolist() == [[2.0, 2.0]]
    assert head_of(file) == 1
    if has_state:
        assert load_file(tmp_path / FOLDER / "last.safetensors")["weight"].tolist() == [[2.0, 2.0]]


def test_a_final_model_that_cannot_be_had_is_an_error_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    worker = worker_of(site, Personal(), None, save_model=tmp_path / "personal.safetensors")
    site.publish(2, state=BODY, shared=("weight",), payload=b"short", is_finished=True)
    with pytest.raises(StateError, match=r"personal\.safetensors was not written"):
        worker.run()
    assert "is not kept here: payload has 5 bytes" in caplog.text


def test_a_statistics_run_has_no_model_to_save_and_that_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, file = Site(), tmp_path / "personal.safetensors"
    worker = worker_of(site, Personal(), None, save_model=file)
    site.publish(2, state=BODY, purpose="statistics", operations={"weight": "sum"}, is_finished=True)
    worker.run()
    assert worker.is_finished
    assert not file.exists()
    assert f"of which there is no model: {file} is not written; --stay waits" in caplog.text


def test_without_state_and_save_model_the_final_body_is_not_read() -> None:
    site = Site()
    worker = worker_of(site, Personal(), None)
    site.publish(2, state=BODY, shared=("weight",), payload=b"short", is_finished=True)
    worker.run()
    assert worker.is_finished


def test_a_round_adds_a_line_and_a_line_that_a_power_cut_tore_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / FOLDER / "evaluations.jsonl"
    results = OwnResults(tmp_path, "site-a")
    for number in (1, 2, 3):
        known = file.stat().st_ino if number > 1 else None
        results.measured("demo.1", number, STATE, {"loss": 1 / number})
        assert known in (None, file.stat().st_ino), "the file was written anew"
    with file.open("ab") as torn:
        torn.write(b'{"round": 4, "met\xff\xfe')
    again = OwnResults(tmp_path, "site-a")
    again.measured("demo.1", 4, STATE, {"loss": 0.5})
    again.measured("demo.1", 5, STATE, {"loss": 0.125})
    again.measured("demo.1", 4, STATE, {"loss": 0.25})
    assert rows(tmp_path) == [
        {"round": n, "metrics": {"loss": loss}} for n, loss in enumerate((1, 0.5, 1 / 3, 0.25, 0.125), 1)
    ]


def test_a_final_model_has_what_was_measured_of_it_also_where_the_run_went_back(tmp_path: Path) -> None:
    results = OwnResults(tmp_path, "site-a")
    for number, loss in ((1, 0.5), (2, 0.25), (3, 0.125), (1, 0.4), (2, 0.3)):
        results.measured("demo.1", number, STATE, {"loss": loss})
    results.finished("demo.1", 2, STATE)
    with safe_open(tmp_path / FOLDER / "last.safetensors", "pt") as file:
        assert json.loads(file.metadata()["metrics"]) == {"loss": 0.3}


def test_what_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    site = Site()
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "evaluations.jsonl").write_text("rubbish\n")
    worker = worker_of(site, Personal(0.5), tmp_path)
    publish(site, 1)
    with pytest.raises(StateError, match=r"evaluations\.jsonl cannot be read: .*; move it away"):
        worker.step()
    (tmp_path / "site-b/run-demo.1/last.safetensors.tmp").mkdir(parents=True)
    with pytest.raises(StateError, match=r"cannot write .*last\.safetensors"):
        OwnResults(tmp_path, "site-b").measured("demo.1", 1, STATE, {"loss": 0.5})


@pytest.mark.parametrize("name", ["model.pt", "no-such-folder/model.safetensors"])
def test_a_file_that_the_model_cannot_go_to_is_refused_at_the_start(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"save_model"):
        WorkerSettings(save_model=tmp_path / name)


def test_no_other_user_can_read_them(tmp_path: Path) -> None:

    with private_files(tmp_path):
        OwnResults(tmp_path, "site-a").measured("demo.1", 1, STATE, {"loss": 0.5})
    files = [path for path in (tmp_path / FOLDER).iterdir() if path.is_file()]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert os.path.samefile(*(tmp_path / FOLDER / f"{name}.safetensors" for name in ("best", "last")))
