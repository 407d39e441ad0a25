"""What the benchmarks say of what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks import table
from benchmarks.figures import FEDMQ, Row, Spread, Usage
from benchmarks.monitor import Monitor
from benchmarks.peers import environments
from benchmarks.place import Failed, Place, wait_for
from benchmarks.workload import Opened, Workload, failed_row, row_of

WORKLOAD = Workload("payload 1 MB", 10**6, num_rounds=2)
PARENT = """
import subprocess, sys, time
holds = "import time; held = bytearray(60_000_000); print('up', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", holds])
print(child.pid, flush=True)
child.wait()
"""


def row(system: str, value: float, *, unit: str = "s", is_more_better: bool = False) -> Row:
    return Row(workload="w", system=system, unit=unit, value=Spread.of([value]), is_more_better=is_more_better)


def test_a_ratio_above_one_says_that_fedmq_is_ahead_in_seconds_and_in_bytes_a_second() -> None:
    assert row("other", 6.0).ratio(row(FEDMQ, 2.0)) == 3.0
    fast = row(FEDMQ, 2.0, unit="GB/s", is_more_better=True)
    assert row("other", 8.0, unit="GB/s", is_more_better=True).ratio(fast) == 0.25


def test_there_is_no_ratio_to_a_measurement_that_failed_or_has_another_unit() -> None:
    assert row("other", 6.0).ratio(failed_row(WORKLOAD, FEDMQ, "no broker")) is None
    assert row("other", 6.0).ratio(row(FEDMQ, 2.0, unit="GB/s")) is None


def test_rounds_are_counted_from_one_opening_to_the_next_without_the_first() -> None:
    opened = Opened([100.0, 109.0, 110.0, 112.0])
    assert opened.seconds == [1.0, 2.0]
    assert (opened.since, opened.until) == (109.0, 112.0)
    assert WORKLOAD.rounds_to_run == len(opened.times)


def test_a_run_without_a_round_that_counts_has_failed() -> None:
    with pytest.raises(Failed, match="only 2 rounds"):
        Opened([100.0, 101.0])


def test_effective_bytes_are_those_of_all_models_and_updates() -> None:
    assert row_of(WORKLOAD, FEDMQ, [0.5, 1.0, 2.0], Usage()).mb_per_s == 8.0


def test_the_monitor_sees_what_a_process_starts_and_leaves_nothing_of_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as said:
        lines = {said.readline().strip(), said.readline().strip()}
        child = psutil.Process(int(next(line for line in lines if line != "up")))
        with Monitor({"worker": [parent.pid]}, every_s=0.05, follows_children=True) as monitor:
            pass
    parent.wait()
    assert not child.is_running()
    assert monitor.peak_mb()["worker"] > 60


def test_cpu_seconds_between_two_looks_are_shared_out_by_time() -> None:
    monitor = Monitor({})
    monitor._times, monitor._cpu_s = [10.0, 12.0], [{"worker": 1.0}, {"worker": 3.0}]
    usage = monitor.usage(10.5, 11.5, num_rounds=2, num_processes={"worker": 4})
    assert usage.cpu_s == {"worker": 1.0 / 2 / 4}


def test_waiting_for_a_command_that_ends_early_fails_with_what_it_said(tmp_path: Path) -> None:
    with Place(tmp_path).commands() as commands:
        command = commands.start([sys.executable, "-c", "raise SystemExit('out of luck')"], name="unlucky", env={})
        with pytest.raises(Failed, match="out of luck"):
            wait_for(lambda: False, while_running=[command], timeout_s=30)


def test_a_room_is_gone_afterwards(tmp_path: Path) -> None:
    with Place(tmp_path).room("run") as room:
        (room.folder / "state").mkdir()
    assert not list(tmp_path.iterdir())


def test_the_table_and_the_file_have_the_command_the_ratio_and_why_a_peer_has_none(tmp_path: Path) -> None:
    rows = [row(FEDMQ, 2.0), row("other", 6.0), Row(workload="w", system="broken", note="failed: no wheel")]
    console = Console(record=True, width=200)
    table.show(rows, command="make bench", facts={"cores": "2"}, console=console)
    text = console.export_text()
    assert all(part in text for part in ("make bench", "--only w", "3.00", "failed: no wheel", "cores 2"))
    table.write_json(tmp_path / "bench.json", rows, command="make bench", facts={"cores": "2"})
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [found["ratio_to_fedmq"] for found in written["rows"]] == [1.0, 3.0, None]


def test_every_peer_has_a_pinned_version_and_what_its_scripts_need_beside_it() -> None:
    for name in (environments.FLOWER, environments.NVFLARE):
        wanted = environments.requirements(name)
        assert wanted[0].startswith(f"{name}==")
        assert all("==" in requirement for requirement in wanted)
