"""A new run begins with the tensors of a file that ``--init`` names, and only a new one."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from aggregator.history import History
from aggregator.history.overview import overview
from aggregator.opening import Broadcaster
from aggregator.settings import AggregatorSettings
from aggregator.state.checkpoint import StateDirectory, WrittenModel
from aggregator.state.ledger import Ledger
from broker import MemoryBroker
from broker.modules import ModelTensors
from console import SettingsError, StateError, TaskError
from learning.scripts import ScriptedModel
from operations.runs.model_cli import main as fl_model

ONE, TWO = state_of(w=[1.0, 3.0]), state_of(w=[0.5, -0.25])
GIVEN = {"w": torch.tensor([5.0, 7.0], dtype=torch.float64)}
ZERO = StateTask(state_of(w=[0.0, 0.0]))


def saved(folder: Path, tensors: dict[str, Tensor], name: str = "given.safetensors") -> Path:
    save_file(tensors, folder / name)
    return folder / name


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_from_another_runs_exported_model_equals_that_run_going_on(begin: Begin, tmp_path: Path) -> None:
    first = begin(ZERO, folder="first", rounds=2, quorum="1", keep_every=1)
    first.fold_all([("a", ONE)])
    exported = tmp_path / "model.safetensors"
    assert fl_model(["export", str(first.folder), "--round", "1", "--to", str(exported)]) == 0
    first.fold_all([("a", TWO)])

    second = begin(ZERO, folder="second", rounds=1, quorum="1", init=exported)
    assert second.model["w"].tolist() == ONE["w"].tolist()
    second.fold_all([("a", TWO)])
    assert second.aggregator.is_finished
    assert second.head.sha256 == first.head.sha256


def test_ledger_summary_page_and_card_say_which_file(begin: Begin, tmp_path: Path) -> None:
    file = saved(tmp_path, GIVEN)
    run = begin(ZERO, rounds=1, quorum="1", init=file)
    run.fold_all([("a", ONE)])
    assert json.loads((run.folder / "summary.json").read_text())["init_sha256"] == sha256_of(file)
    with History(run.folder) as history:
        assert history.facts["init_sha256"] == sha256_of(file)
        shown = overview(history)["settings"]
        assert (shown["init"], shown["init_sha256"]) == ("given.safetensors", sha256_of(file))
    assert fl_model(["export", str(run.folder), "--to", str(tmp_path / "card.md")]) == 0
    assert sha256_of(file) in (tmp_path / "card.md").read_text()


def test_a_restart_by_the_same_command_reads_the_file_no_more(begin: Begin, tmp_path: Path) -> None:
    file = saved(tmp_path, GIVEN)
    run = begin(ZERO, rounds=2, quorum="1", init=file)
    run.fold_all([("a", ONE)])
    again = run.crash().start()
    assert again.model["w"].tolist() == [6.0, 10.0]
    file.unlink()
    again = again.crash().start()
    again.fold_all([("a", ONE)])
    assert again.model["w"].tolist() == [7.0, 13.0]
    again.aggregator.close()


class Killed(BaseException):
    """As kill -9, for the test."""


STEPS: list[tuple[type, str]] = [
    (StateDirectory, "write_model"),
    (WrittenModel, "install"),
    (Ledger, "record"),
    (Ledger, "claim"),
    (Ledger, "open_round"),
    (Broadcaster, "publish"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=lambda each: getattr(each, "__name__", each))
def test_killed_while_it_begins_with_a_file_it_begins_with_that_file(
    tmp_path: Path, owner: type, step: str, when: str
) -> None:
    run = EmbeddedRun.make(tmp_path / "run", ZERO, rounds=1, quorum="1", init=saved(tmp_path, GIVEN))
    original = getattr(owner, step)

    def killed(*args: Any, **kwargs: Any) -> None:
        if when == "after":
            original(*args, **kwargs)
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, step, killed)
        with pytest.raises(Killed):
            run.start()
    run = run.crash().start()
    run.fold_all([("a", ONE)])
    assert run.model["w"].tolist() == [6.0, 10.0]
    assert run.summary["init_sha256"] == sha256_of(tmp_path / "given.safetensors")
    run.aggregator.close()


def test_a_restart_with_another_file_is_refused(begin: Begin, tmp_path: Path) -> None:
    begin(ZERO, rounds=2, init=saved(tmp_path, GIVEN)).aggregator.close()
    other = EmbeddedRun.make(tmp_path / "run", ZERO, init=saved(tmp_path, ONE, "other.safetensors"))
    with pytest.raises(StateError, match=r"began with another --init: SHA-256 [0-9a-f]{12}….*leave --init out"):
        other.start()
    other.aggregator.close()
    without = EmbeddedRun.make(tmp_path / "run", ZERO).start()
    assert without.model["w"].tolist() == [5.0, 7.0]
    without.aggregator.close()


def test_a_run_that_did_not_begin_with_a_file_refuses_one(begin: Begin, tmp_path: Path) -> None:
    begin(ZERO).aggregator.close()
    other = EmbeddedRun.make(tmp_path / "run", ZERO, init=saved(tmp_path, GIVEN))
    with pytest.raises(StateError, match=r"did not begin with a file; leave out --init"):
        other.start()
    other.aggregator.close()


def test_a_run_taken_over_goes_on_from_the_model_on_the_stream(
    begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A standby has the command of the one that began, and perhaps a directory of its own."""
    file, broker = saved(tmp_path, GIVEN), MemoryBroker()
    first = begin(ZERO, rounds=3, quorum="1", init=file, broker=broker)
    first.fold_all([("a", ONE)])
    first.aggregator.close()
    standby = begin(ZERO, folder="standby", rounds=3, quorum="1", init=file, broker=broker, take_over=True)
    assert standby.model["w"].tolist() == [6.0, 10.0]
    assert "is not used: run federation." in caplog.text
    again = standby.crash().start()
    assert again.model["w"].tolist() == [6.0, 10.0]
    again.aggregator.close()


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({}, "has no 'w'"),
        (GIVEN | {"v": torch.zeros(1)}, "has 'v', which the model does not have"),
        ({"w": torch.zeros(3, dtype=torch.float64)}, r"has 'w' as float64 \[3\], not float64 \[2\]"),
        ({"w": torch.zeros(2)}, r"has 'w' as float32 \[2\], not float64 \[2\]"),
        ({"w": torch.zeros(2).to(torch.float8_e4m3fn)}, r"has 'w' as float8_e4m3fn \[2\], not float64 \[2\]"),
        ({f"v{n}": torch.zeros(1) for n in range(5)}, "has no 'w'; has 'v0'.*; has 'v1'.*; and 3 more"),
        ({"w": torch.tensor([0.0, torch.nan], dtype=torch.float64)}, "has NaN or infinity in 'w', which is trained"),
    ],
)
def test_a_file_of_another_model_is_refused_with_the_names(
    tmp_path: Path, tensors: dict[str, Tensor], problem: str
) -> None:
    run = EmbeddedRun.make(tmp_path / "run", ZERO, init=saved(tmp_path, tensors))
    with pytest.raises(SettingsError, match=rf"^--init .*given\.safetensors [^\n]*{problem}[^\n]*$"):
        run.start()
    run.aggregator.close()


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    whole = saved(tmp_path, {"w": torch.zeros(1000, dtype=torch.float64)}).read_bytes()
    for name, content in (("text", b"hello, I am no model"), ("empty", b""), ("cut", whole[:-9]), ("head", whole[:40])):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        run = EmbeddedRun.make(tmp_path / name, ZERO, init=path)
        with pytest.raises(SettingsError, match=r"^--init .* is no whole safetensors file: [^\n]*$"):
            run.start()
        run.aggregator.close()
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("folder", "nowhere"):
        run = EmbeddedRun.make(tmp_path / name, ZERO, init=tmp_path / f"{name}.safetensors")
        with pytest.raises(SettingsError, match=r"^--init .* cannot be read: [^\n]*$"):
            run.start()
        run.aggregator.close()


def test_only_safetensors_files_are_taken(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--init model\.pt: it takes a \.safetensors file; of a run, `fl-model export"
    ):
        AggregatorSettings.model_validate({"init": "model.pt"})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.lm_head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
        self.lm_head.weight = self.wte.weight


class TiedTask(StateTask):
    def model(self) -> nn.Module:
        return Tied()


def test_a_tied_tensor_is_taken_under_any_of_its_names(begin: Begin, tmp_path: Path) -> None:
    table = torch.arange(6.0).reshape(3, 2)
    for index, names in enumerate((["wte.weight"], ["lm_head.weight"], ["wte.weight", "lm_head.weight"])):
        file = saved(tmp_path, {name: table.clone() for name in names}, f"{index}.safetensors")
        run = begin(TiedTask({}), folder=str(index), init=file)
        assert {name: tensor.tolist() for name, tensor in run.model.items()} == {"wte.weight": table.tolist()}
    apart = saved(tmp_path, {"wte.weight": table, "lm_head.weight": table + 1}, "apart.safetensors")
    run = EmbeddedRun.make(tmp_path / "apart", TiedTask({}), init=apart)
    with pytest.raises(SettingsError, match=r"other values in 'wte\.weight' than in 'lm_head\.weight'.*tied weights"):
        run.start()
    run.aggregator.close()


def test_what_is_not_shared_may_be_in_the_file_and_is_not_used(
    begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = StateTask(state_of(body=[0.0], head=[0.0]))
    body, head = (torch.tensor([value], dtype=torch.float64) for value in (2.0, 9.0))
    alone = begin(task, folder="alone", shared="body", init=saved(tmp_path, {"body": body}, "alone.safetensors"))
    assert "not used" not in caplog.text
    both = begin(task, folder="both", shared="body", init=saved(tmp_path, {"body": body, "head": head}))
    assert alone.head.sha256 == both.head.sha256
    assert set(both.model) == {"body"}
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message for message in warned if message.endswith("what is not shared is not used: 'head'")]


def test_a_script_that_needs_arguments_is_told_where_they_go(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--site', required=True)\n"
        "parser.parse_args()\n"
    )
    with pytest.raises(TaskError, match=r"SystemExit: 2 .*; give it the arguments .*train\.py -- --its --own flags$"):
        ScriptedModel(script).model()


def test_the_model_of_a_script_is_filled_from_the_file_too(begin: Begin, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import fedmq, sys, torch\n"
        "model = torch.nn.Linear(int(sys.argv[1]), 1, bias=False)\n"
        "for round in fedmq.rounds(model):\n    pass\n"
    )
    task = ScriptedModel(script, ["3"])
    assert [spec.name for spec in ModelTensors.of(task.model()).specs] == ["weight"]
    run = begin(task, init=saved(tmp_path, {"weight": torch.ones(1, 3)}))
    assert run.model["weight"].tolist() == [[1.0, 1.0, 1.0]]
