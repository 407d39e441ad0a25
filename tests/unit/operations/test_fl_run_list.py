"""``fl-run list``: the runs below a folder, whatever state each of them is in."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from operations.runs.run_cli import main

INITIAL, ONE = state_of(weight=[0.0]), state_of(weight=[1.0])


def begun(folder: Path, *, rounds: int = 2) -> EmbeddedRun:
    """A run with one round done."""
    run = EmbeddedRun.make(folder, StateTask(INITIAL), rounds=rounds, quorum="1", run=folder.name).start()
    run.fold_all([("a", ONE)])
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that was finished, one that was stopped, and one whose ledger is damaged."""
    done = begun(tmp_path / "done", rounds=1)
    done.aggregator.close()
    begun(tmp_path / "halted").aggregator.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "halted" / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE rounds SET metrics = '{\"accuracy\": 0.875}' WHERE round = 1")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_each_run_has_its_state_and_rounds_also_where_one_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    going = begun(folder / "going")
    assert main(["list", "--state", str(folder), "--json"]) == 0
    found = {run["name"]: run for run in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {name: (run["state"], run["rounds"], run["of"]) for name, run in found.items()} == {
        "going": ("running", 1, 2),
        "done": ("finished", 1, 1),
        "halted": ("stopped", 1, 2),
        "broken": ("unknown", 0, None),
    }
    assert found["done"]["reason"] == "all 1 rounds are done"
    assert "cannot be read as a ledger" in found["broken"]["reason"]
    going.aggregator.close()


def test_people_get_a_line_a_run_with_the_best_round(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--state", str(folder)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "rounds", "best"]
    assert sorted(line.split()[0] for line in lines) == ["broken", "done", "halted"]
    (line,) = (line for line in lines if line.startswith("halted"))
    assert line.split("  ")[-1] == "accuracy 0.875, round 1"
    assert "1 of 2" in line


def test_the_best_of_what_sites_measure_is_said_to_be_their_median(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {"worker_metrics": '{"eval.accuracy": 0.8}', "worker_medians": '{"eval.accuracy": [0.7, 0.7]}'}
    with contextlib.closing(sqlite3.connect(folder / "done" / "ledger.sqlite")) as ledger, ledger:
        for column, value in measured.items():
            ledger.execute(f"UPDATE rounds SET {column} = ?", [value])
    assert main(["list", "--state", str(folder / "done")]) == 0
    assert "eval.accuracy (median of the workers) 0.7, round 1" in capsys.readouterr().out


def test_a_reader_does_not_change_when_a_run_last_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a dashboard leaves it: with an empty log of its own, and shared memory that it has written to."""
    os.utime(folder / "done" / "ledger.sqlite", (1e9, 1e9))
    for ending in ("-wal", "-shm"):
        (folder / "done" / f"ledger.sqlite{ending}").touch()
    assert main(["list", "--state", str(folder / "done"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed_at"] == 1e9


def test_a_run_that_never_began_goes_by_its_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(sqlite3.connect(folder / "halted" / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("DELETE FROM run WHERE key = 'run'")
    assert main(["list", "--state", str(folder / "halted"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "halted"


def test_a_state_directory_is_a_list_of_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--state", str(folder / "halted")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "No such file or directory"), ("notes", "no run has begun")])
def test_without_a_folder_or_a_run_it_says_so(
    name: str, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--state", str(folder / name)]) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert name in line


def test_it_takes_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "runs"]) == 2
    assert "list takes nothing more, but --state FOLDER" in capsys.readouterr().err


def test_a_folder_that_is_not_ours_to_look_into_hides_no_run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume of its own may have one, called lost+found."""
    (folder / "lost+found").mkdir()
    original = Path.is_file

    def is_file(self: Path) -> bool:
        if self.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(self))
        return original(self)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert main(["list", "--state", str(folder), "--json"]) == 0
    names = {json.loads(line)["folder"] for line in capsys.readouterr().out.splitlines()}
    assert names == {"done", "halted", "broken"}
