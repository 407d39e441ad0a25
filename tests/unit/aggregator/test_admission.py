"""Which workers may count: by name, by pattern, or by a file that may change while the run goes on."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import Clock, EmbeddedRun, StateTask
from unit.aggregator.sharded_run import ShardedRun, delta_of, names_of

from aggregator.senders.admission import Allowed
from aggregator.senders.exclusion import Excluding
from aggregator.settings import AggregatorSettings
from broker.states.tensors import State
from console import SettingsError

INITIAL: State = {"w": torch.zeros(4)}
DELTA: State = {"w": torch.ones(4)}


def written(path: Path, text: str, *, at: int) -> Path:
    """The file with this text, changed at this second."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (at, at))
    return path


def looks(allowed: Allowed, clock: Clock, *, times: int = 2) -> list[bool]:
    found = []
    for _ in range(times):
        clock.now += 1.0
        found.append(allowed.look())
    return found


def test_names_and_patterns_admit_by_the_rules_of_the_shell() -> None:
    allowed = Allowed("hospital-*, lab-[12],site")
    names = ["hospital-a", "hospital-", "lab-1", "lab-3", "site", "site-1", "Site"]
    assert [name for name in names if allowed.admits(name)] == ["hospital-a", "hospital-", "lab-1", "site"]
    assert allowed.looks_every_s is None


@pytest.mark.parametrize("text", ["", "a,,b", "a b", "café"])
def test_what_can_be_no_worker_s_name_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="no name of a worker"):
        Allowed(text)


def test_a_file_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        _ = AggregatorSettings(workers_allowed=str(tmp_path / "sites.txt")).config


def test_a_file_is_read_again_once_it_has_stayed_the_same_for_a_second(tmp_path: Path) -> None:
    clock = Clock()
    path = written(tmp_path / "sites", "a  # the first\n\nb-*\n", at=1)
    allowed = Allowed(str(path), clock=clock)
    assert [allowed.admits(name) for name in ("a", "b-1", "c")] == [True, True, False]
    written(path, "a\nc\n", at=2)
    assert not allowed.look()
    assert looks(allowed, clock) == [False, True]
    assert [allowed.admits(name) for name in ("a", "b-1", "c")] == [True, False, True]
    assert looks(allowed, clock) == [False, False]
    written(path, "c\na\n", at=3)
    assert looks(allowed, clock, times=3) == [False, False, False]


def test_a_file_that_cannot_be_read_any_more_changes_nothing_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    path = written(tmp_path / "sites", "a\n", at=1)
    allowed = Allowed(str(path), clock=clock)
    path.unlink()
    assert looks(allowed, clock, times=4) == [False] * 4
    assert allowed.admits("a")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    written(path, "not a name\n", at=2)
    assert looks(allowed, clock, times=4) == [False] * 4
    written(path, "b\n", at=3)
    assert looks(allowed, clock) == [False, True]
    assert [allowed.admits(name) for name in "ab"] == [False, True]


def test_a_file_that_names_nobody_is_taken_for_one_that_is_being_written(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "allowed.txt"
    path.write_text("a\n", encoding="utf-8")
    allowed = Allowed(str(path), clock=clock)
    path.write_text("# nobody yet\n", encoding="utf-8")
    for _ in range(3):
        clock.now += 1
        assert not allowed.look()
    assert allowed.admits("a")


def test_a_worker_that_is_not_allowed_counts_neither_in_the_mean_nor_as_present(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), quorum="100%", workers_allowed="site-*")
    for name in ("site-a", "stranger"):
        run.announce(name)
    run.fold_all([("stranger", DELTA)])
    assert run.num_folded == 0
    assert run.reasons == ["worker 'stranger' is not among those that may count (--workers-allowed)"]
    run.fold_all([("site-a", DELTA)])
    assert run.round == 2


def with_file(begin: Begin, path: Path, **settings: Any) -> EmbeddedRun:
    run = begin(StateTask(INITIAL), workers_allowed=str(path), **settings)
    run.aggregator._course.admission = Excluding(Allowed(str(path), clock=run.clock))
    return run


def test_who_leaves_the_list_is_not_waited_for_any_more(begin: Begin, tmp_path: Path) -> None:
    path = written(tmp_path / "sites", "a\nb\n", at=1)
    run = with_file(begin, path, quorum="100%")
    for name in ("a", "b"):
        run.announce(name)
    run.fold_all([("a", DELTA)])
    assert run.round == 1
    written(path, "a\n", at=2)
    assert run.aggregator.time_left() <= 1.0
    for _ in range(2):
        run.pass_time(1.0)
    assert run.round == 2
    run.fold_all([("b", DELTA)])
    assert run.reasons == ["worker 'b' is not among those that may count (--workers-allowed)"]


def test_a_partial_aggregator_sums_up_only_who_is_allowed(tmp_path: Path) -> None:
    first, other, *_ = names_of(0, 2, num_shards=1)
    run = ShardedRun.make(tmp_path, num_shards=1, quorum="1", workers_allowed=first)
    run.partials = [run.partial(0, workers_allowed=first)]
    run.start()
    run.send(other, delta_of(other, 1))
    run.send(first, delta_of(first, 1))
    run.pass_time()
    assert run.root.reasons == [f"worker '{other}' is not among those that may count (--workers-allowed)"]
    assert run.root.closed("num_folded") == [(1,)]
    run.root.aggregator.close()
