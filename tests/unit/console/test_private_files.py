"""State directories and what is in them: nobody else on the machine reads them."""

import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.state import StateDirectory
from console.private import private_files
from simulation.cli import main as simulate
from worker.state.carried import RESIDUAL, Carried, OnDisk


@pytest.fixture(autouse=True)
def generous_umask() -> Iterator[None]:
    """That of a machine which lets everybody read."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def modes_in(folder: Path) -> set[tuple[str, str]]:
    """(kind, mode) of everything in and below a folder."""
    return {("folder" if path.is_dir() else "file", mode(path)) for path in folder.rglob("*")}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_all_that_a_simulation_leaves_is_its_user_s_alone(tmp_path: Path) -> None:
    state = tmp_path / "runs" / "mine"
    flags = ("--workers", "2", "--rounds", "2", "--compression", "topk:0.1", "--log-level", "WARNING", "--no-baselines")
    assert simulate(["--state", str(state), *flags]) == 0
    assert {path.name for path in state.iterdir()} >= {"ledger.sqlite", "models", "workers", "report.html"}
    assert mode(state) == "0700"
    assert modes_in(state) == {("folder", "0700"), ("file", "0600")}
    assert os.umask(0) == 0, "the umask is not what it was"


def test_files_beside_a_ledger_have_its_rights(tmp_path: Path) -> None:
    with private_files(tmp_path), closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
        ledger.execute("PRAGMA journal_mode = WAL")
        ledger.execute("CREATE TABLE t (x)")
        assert {path.name for path in tmp_path.iterdir()} == {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"}
        assert modes_in(tmp_path) == {("file", "0600")}


def test_a_state_directory_is_closed_even_where_the_process_is_not_a_command_of_ours(tmp_path: Path) -> None:
    assert mode(StateDirectory(tmp_path / "notebook" / "run").folder) == "0700"


def test_what_a_worker_carries_is_its_user_s_alone(tmp_path: Path) -> None:
    carried = OnDisk(tmp_path / "state", "hospital-a")
    with private_files(tmp_path / "state"):
        carried.check()
        carried.keep("0123456789abcdef", 1, before=Carried({}), after=Carried({RESIDUAL: {}}))
    assert mode(tmp_path / "state") == "0700"
    assert modes_in(tmp_path / "state") == {("folder", "0700"), ("file", "0600")}


@pytest.mark.parametrize(("rights", "who"), [(0o755, "every user of this machine"), (0o750, "the group ")])
def test_a_directory_with_wider_rights_keeps_them_and_is_told_once(
    rights: int, who: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=rights)
    with private_files(state):
        StateDirectory(state).write_summary({})
    assert mode(state) == f"{rights:04o}"
    assert modes_in(state) == {("folder", "0700"), ("file", "0600")}
    (told,) = warnings(caplog)
    assert f"is open to {who}" in told
    assert told.endswith(f"chmod 700 {state}")


def test_a_directory_opened_to_a_group_on_purpose_stays_open_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o2770)
    with private_files(state):
        StateDirectory(state).write_summary({})
    assert mode(state) == "2770"
    assert modes_in(state) == {("folder", "2770"), ("file", "0660")}
    assert not warnings(caplog)


def test_a_directory_of_one_s_own_is_not_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with private_files(tmp_path), private_files(None), private_files(tmp_path / "none"):
        pass
    assert not warnings(caplog)
