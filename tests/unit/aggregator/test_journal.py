"""A ledger on a file system that several machines share: kept without memory that only one machine can share."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.history import History, history
from aggregator.state.ledger import Ledger, UpdateRow, Verdict, database
from aggregator.state.ledger.journal import BESIDE, IN_A_LOG, journal_mode
from console.errors import LeadershipLost, StateError

MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:40 / /state rw,relatime - nfs4 nas:/export rw
31 30 0:41 / /state/fast rw,relatime - xfs /dev/vdb rw
32 27 0:42 / /a\040share rw,relatime - cifs //nas/a rw
33 27 0:43 / /gluster rw,relatime - fuse.glusterfs gl:/v rw
34 27 0:44 / /over rw,relatime - nfs4 nas:/x rw
35 27 0:45 / /over rw,relatime - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("folder", "mode"),
    [
        ("/var/lib/fedmq", IN_A_LOG),
        ("/state", BESIDE),
        ("/state/run", BESIDE),
        ("/statement", IN_A_LOG),
        ("/state/fast/run", IN_A_LOG),
        ("/a share/run", BESIDE),
        ("/gluster/run", BESIDE),
        ("/over/run", IN_A_LOG),
    ],
)
def test_the_file_system_of_the_folder_decides(folder: str, mode: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert journal_mode(Path(folder), mounts=mounts) == mode


def test_where_nothing_tells_of_file_systems_it_is_as_on_a_disk_of_its_own(tmp_path: Path) -> None:
    assert journal_mode(tmp_path, mounts=tmp_path / "none") == IN_A_LOG


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a ledger on such a file system."""
    monkeypatch.setattr(database, "journal_mode", lambda folder: BESIDE)
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    path.parent.mkdir()
    with closing(Ledger(path)) as opened:
        opened.record({"base_round": 0, "base_sha256": "00"})
        opened.open_round(1, now=1.0)
        yield opened


def refused(worker: str) -> UpdateRow:
    return UpdateRow(received_at=1.0, round=1, verdict=Verdict.REFUSED, worker=worker, reason="too late")


def test_no_memory_is_shared(ledger: Ledger, path: Path) -> None:
    with History(path.parent) as reader:
        assert list(reader.updates()) == []
    ledger.commit([refused("a")], None)
    assert {each.name for each in path.parent.iterdir()} == {"ledger.sqlite", "ledger.sqlite-journal"}


def test_an_aggregator_that_took_over_fences_the_other_off(ledger: Ledger, path: Path) -> None:
    ledger.claim()
    with closing(Ledger(path)) as other:
        other.claim()
        with pytest.raises(LeadershipLost):
            ledger.commit([refused("a")], None)
        other.commit([refused("b")], None)
    with History(path.parent) as reader:
        assert [row["worker"] for row in reader.updates()] == ["b"]


def test_who_reads_slowly_holds_up_no_commit(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_PAGE", 3)
    monkeypatch.setitem(database.WAITS_S, BESIDE, 0.0)
    with closing(Ledger(path)) as impatient, History(path.parent) as reader:
        impatient.commit([refused(str(number)) for number in range(7)], None)
        rows = reader.updates()
        seen = [next(rows)["worker"]]
        impatient.commit([refused("7")], None)
        assert seen + [row["worker"] for row in rows] == [str(number) for number in range(8)]


def test_killed_in_a_transaction_nothing_of_it_is_left_and_nobody_reads_a_part(
    ledger: Ledger, path: Path, tmp_path: Path
) -> None:
    ledger.commit([refused("a")], None)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA cache_spill = 1")
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE updates SET worker = 'half'")
        other.execute("PRAGMA cache_size = 1")
        other.executemany(
            "INSERT INTO updates (received_at, round, verdict, worker, reason) VALUES (1, 1, 'refused', 'half', ?)",
            [("x" * 4000,) for _ in range(200)],
        )
        left = tmp_path / "left"
        shutil.copytree(path.parent, left)  # as kill -9 leaves it: some of its pages are written
        other.execute("ROLLBACK")
    with pytest.raises(StateError), History(left) as reader:
        list(reader.updates())
    with closing(Ledger(left / path.name)), History(left) as reader:
        assert [row["worker"] for row in reader.updates()] == ["a"]
