"""A run goes on from its state directory, after a clean stop and after a crash, and comes to the same model."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, payload_of, state_of

from broker.states.tensors import State
from broker.wire import Digest, encode
from console.errors import StateError

ZERO = StateTask(state_of(w=[0.0, 0.0, 0.0]))


def delta(number: int) -> State:
    return {"w": torch.randn(3, generator=torch.Generator().manual_seed(number), dtype=torch.float64)}


def resumed(run: EmbeddedRun) -> EmbeddedRun:
    return run.crash().start()


@pytest.fixture
def uninterrupted(begin: Begin) -> EmbeddedRun:
    """What must come out: two rounds of three updates."""
    run = begin(ZERO, folder="uninterrupted", quorum="3", rounds=2)
    for number in range(2):
        run.fold_all([(name, delta(10 * number + index)) for index, name in enumerate("abc")])
    assert run.aggregator.is_finished
    return run


@pytest.mark.parametrize("num_committed", [0, 1, 2])
@pytest.mark.parametrize("num_more", [0, 1])
def test_a_crash_in_mid_round_loses_nothing_and_doubles_nothing(
    begin: Begin, uninterrupted: EmbeddedRun, num_committed: int, num_more: int
) -> None:
    run = begin(ZERO, quorum="3", rounds=2)
    updates = [(name, delta(index)) for index, name in enumerate("abc")]
    head = run.head
    run.fold_all(updates[:num_committed])
    run.aggregator.finish()  # a commit
    run.fold_all(updates[num_committed : num_committed + num_more])
    again = resumed(run)
    try:
        if num_committed + num_more < 3:
            assert again.head == head
            assert again.num_folded == num_committed
        again.settle()
        again.fold_all(updates, round=1)  # whoever is not sure sends again
        again.fold_all([(name, delta(10 + index)) for index, name in enumerate("abc")])
        assert again.aggregator.is_finished
        assert again.head.sha256 == uninterrupted.head.sha256
        assert again.query("SELECT round, worker FROM updates WHERE verdict = 'folded' ORDER BY round, worker") == [
            (number, name) for number in (1, 2) for name in "abc"
        ]
    finally:
        again.aggregator.close()


def test_a_crash_after_each_single_event_comes_to_the_same_model(begin: Begin, uninterrupted: EmbeddedRun) -> None:
    run = begin(ZERO, quorum="3", rounds=2)
    for number in range(2):
        for index, name in enumerate("abc"):
            run.send(name, delta(10 * number + index), round=number + 1)
    for _ in range(6):
        run.aggregator.step(0)
        if run.aggregator.is_running:
            run.aggregator.finish()
        run = resumed(run)
    run.settle()
    assert run.aggregator.is_finished
    assert run.head.sha256 == uninterrupted.head.sha256
    run.aggregator.close()


def test_a_stop_commits_and_the_next_start_goes_on(begin: Begin, uninterrupted: EmbeddedRun) -> None:
    run = begin(ZERO, quorum="3", rounds=2)
    run.fold_all([("a", delta(0)), ("b", delta(1))])
    run.stop()
    again = EmbeddedRun.make(run.folder, ZERO, broker=run.broker, quorum="3", rounds=2).start()
    assert again.num_folded == 2
    again.fold_all([("c", delta(2))])
    again.fold_all([(name, delta(10 + index)) for index, name in enumerate("abc")])
    assert again.head.sha256 == uninterrupted.head.sha256
    again.aggregator.close()


def test_a_share_quorum_is_not_reached_on_resuming_before_anybody_could_say_that_he_is_there(begin: Begin) -> None:
    """One of three had answered; the other two still train, and tell that every ten seconds."""
    run = begin(ZERO, quorum="100%")
    for name in "abc":
        run.announce(name)
    run.fold_all([("a", delta(0))])
    run.aggregator.finish()
    again = resumed(run)
    try:
        again.settle()
        again.aggregator.step(0)
        assert again.round == 1
    finally:
        again.aggregator.close()


def test_workers_that_speak_once_a_minute_are_waited_for_on_resuming(begin: Begin) -> None:
    run = begin(ZERO, quorum="100%")
    for name in "abc":
        run.announce(name, every_s=60.0)
    run.fold_all([("a", delta(0))])
    run.aggregator.finish()
    again = resumed(run)
    try:
        again.pass_time(59)
        assert again.round == 1
        again.pass_time(152)
        assert again.round == 2
    finally:
        again.aggregator.close()


def test_the_epoch_goes_up_with_each_start(begin: Begin) -> None:
    run = begin(ZERO)
    assert run.head.epoch == 1
    again = resumed(run)
    again.fold_all([("a", delta(0)), ("b", delta(1))])
    assert again.head.epoch == 2
    again.aggregator.close()


def test_the_model_goes_out_again_if_the_stream_lost_it(begin: Begin) -> None:
    run = begin(ZERO)
    run.fold_all([("a", delta(0)), ("b", delta(1))])
    expected = run.head.sha256
    run.broker.heads.clear()
    again = resumed(run)
    assert (again.head.round, again.head.sha256) == (2, expected)
    again.aggregator.close()


def test_a_stream_with_rubbish_as_its_newest_message_gets_the_model_again(begin: Begin) -> None:
    run = begin(ZERO)
    run.site.broadcast(b"rubbish")
    again = resumed(run)
    assert again.head.round == 1
    again.aggregator.close()


def test_a_finished_run_is_finished_again_at_once(begin: Begin) -> None:
    run = begin(ZERO, rounds=1)
    run.fold_all([("a", delta(0)), ("b", delta(1))])
    assert run.head.is_finished
    before = run.summary
    again = resumed(run)
    assert again.aggregator.is_finished
    assert again.summary["final"] == before["final"]
    again.aggregator.run()
    again.aggregator.close()


def test_a_run_killed_before_its_last_model_was_linked_links_it_when_it_is_run_again(begin: Begin) -> None:
    run = begin(ZERO, rounds=2)
    for number in range(2):
        run.fold_all([("a", delta(number)), ("b", delta(number + 1))])
    models = run.folder / "models"
    wanted = (models / "round-00002.safetensors").read_bytes()
    (models / "last.safetensors").unlink()
    (models / "round-00003.0a1b2c3d.tmp").write_bytes(b"half a model")
    resumed(run).aggregator.close()
    assert (models / "last.safetensors").read_bytes() == wanted
    assert not list(models.glob("*.tmp"))


def test_a_best_round_whose_model_was_not_kept_stops_nobody(begin: Begin) -> None:
    run = begin(ZERO, rounds=9, stop_metric="eval.accuracy")
    for number in range(4):
        run.fold_all(
            [("a", delta(number)), ("b", delta(number + 1))],
            eval_metrics={"accuracy": number / 10, "loss": 1.0 + number},
        )
    run.aggregator.close()
    assert not (run.folder / "models" / "round-00001.safetensors").exists()
    again = EmbeddedRun.make(run.folder, ZERO, broker=run.broker, rounds=9, stop_metric="eval.loss").start()
    again.fold_all([("a", delta(8)), ("b", delta(9))], eval_metrics={"loss": 9.0})
    assert again.round == 6
    again.aggregator.close()


def test_a_finished_run_goes_on_when_it_is_given_more_rounds(begin: Begin) -> None:
    run = begin(ZERO, rounds=1)
    run.fold_all([("a", delta(0)), ("b", delta(1))])
    run.aggregator.close()
    again = EmbeddedRun.make(run.folder, ZERO, broker=run.broker, rounds=2).start()
    assert (again.head.round, again.head.is_finished) == (2, False)
    again.fold_all([("a", delta(2)), ("b", delta(3))])
    assert again.aggregator.is_finished
    again.aggregator.close()


def test_a_run_of_the_version_before_goes_on_whose_ledger_has_its_settings_as_text(begin: Begin) -> None:
    as_text = {"compression": '"topk:0.01"', "zstd": "3", "shared": '"w,!v"'}
    said = {"compression": "topk:0.010", "zstd": 3, "shared": "w, !v"}
    task = StateTask(state_of(w=[0.0, 0.0, 0.0], v=[0.0]))
    run = begin(task, **said)
    run.aggregator.close()
    assert dict(run.query("SELECT key, value FROM run WHERE key IN ('compression', 'zstd', 'shared')")) == as_text
    with contextlib.closing(sqlite3.connect(run.folder / "ledger.sqlite")) as ledger, ledger:
        ledger.executemany("UPDATE run SET value = ? WHERE key = ?", [(text, key) for key, text in as_text.items()])
    again = EmbeddedRun.make(run.folder, task, broker=run.broker, **said).start()
    assert (again.round, again.head.sha256) == (1, run.head.sha256)
    again.aggregator.close()
    other = EmbeddedRun.make(run.folder, task, broker=run.broker, **said | {"compression": "topk:0.02"})
    with pytest.raises(StateError, match=r"with --compression topk:0\.01, not topk:0\.02; give another --state"):
        other.start()
    other.aggregator.close()


@pytest.mark.parametrize("changes", [{"run": "other"}, {"task": "other"}, {"seed": 1}])
def test_the_directory_of_another_run_is_refused(begin: Begin, changes: dict[str, object]) -> None:
    run = begin(ZERO)
    run.aggregator.close()
    other = EmbeddedRun.make(run.folder, ZERO, broker=run.broker, **changes)
    with pytest.raises(StateError, match="holds run 'federation'"):
        other.start()
    other.aggregator.close()


def test_the_directory_of_another_model_is_refused(begin: Begin) -> None:
    run = begin(ZERO)
    run.aggregator.close()
    other = EmbeddedRun.make(run.folder, StateTask(state_of(w=[0.0])), broker=run.broker)
    with pytest.raises(StateError, match=r"has tensor 'w' of shape \[3\], not \[1\]"):
        other.start()
    other.aggregator.close()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
@pytest.mark.parametrize("changes", [{}, {"inline_cap": 4, "part_bytes": 8}], ids=["in the head", "in a blob"])
def test_a_damaged_model_is_read_back_from_the_stream(begin: Begin, damage: str, changes: dict[str, Any]) -> None:
    run = begin(ZERO, **changes)
    run.fold_all([("a", delta(0)), ("b", delta(1))])
    path, head = run.folder / "models" / "round-00001.safetensors", run.broker.heads[-1]
    whole = path.read_bytes()
    _damage(path, damage)
    again = resumed(run)
    assert path.read_bytes() == whole
    assert (run.folder / "models" / "last.safetensors").read_bytes() == whole
    assert again.broker.heads[-1] == head
    again.fold_all([("a", delta(0)), ("b", delta(1))])
    assert again.round == 3
    again.aggregator.close()


def test_a_model_on_the_stream_that_is_another_than_the_ledger_s_takes_no_place(begin: Begin) -> None:
    run = begin(ZERO)
    run.fold_all([("a", delta(0)), ("b", delta(1))])
    other = state_of(w=[7.0, 7.0, 7.0])
    digest = Digest(run.head.tensors)
    digest.add(payload_of(other))
    head = run.head.model_copy(update={"sha256": digest.hex()})
    run.broker.heads[-1] = encode(head, payload_of(other))
    _damage(run.folder / "models" / "round-00001.safetensors", "changed")
    again = resumed(run)
    assert (again.head.round, again.model["w"].tolist()) == (1, [0.0, 0.0, 0.0])
    again.aggregator.close()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_model_that_the_stream_lacks_has_its_round_done_again(begin: Begin, damage: str) -> None:
    run = begin(ZERO)
    run.fold_all([("a", delta(0)), ("b", delta(1))])
    assert run.round == 2
    before = run.head.sha256
    _damage(run.folder / "models" / "round-00001.safetensors", damage)
    run.broker.heads.clear()
    again = resumed(run)
    assert (again.head.round, again.head.epoch) == (1, 2)
    assert again.model["w"].tolist() == [0.0, 0.0, 0.0]
    again.fold_all([("a", delta(0)), ("b", delta(1))])
    assert again.head.sha256 == before
    again.aggregator.close()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_sum_means_that_the_open_round_is_done_again(begin: Begin, damage: str) -> None:
    run = begin(ZERO)
    run.fold_all([("a", delta(0))])
    run.aggregator.finish()
    (path,) = run.folder.glob("sum-*.safetensors")
    _damage(path, damage)
    again = resumed(run)
    assert (again.head.round, again.head.epoch, again.num_folded) == (1, 2, 0)
    again.fold_all([("a", delta(0)), ("b", delta(1))])
    assert again.round == 2
    again.aggregator.close()


def test_where_no_model_is_whole_the_run_stays_as_it_was_and_one_line_says_what_to_do(begin: Begin) -> None:
    run = begin(ZERO, rounds=9)
    for _ in range(3):
        run.fold_all([("a", delta(0)), ("b", delta(1))])
    run.aggregator.close()
    models = {path: path.read_bytes() for path in (run.folder / "models").glob("round-*")}
    for path in models:
        _damage(path, "changed")
    run.broker.heads.clear()
    again = run.crash()
    with pytest.raises(
        StateError, match=r"round-00003.* is damaged.*, and no model before it is whole: put back a copy"
    ):
        again.start()
    again.aggregator.close()
    for path, content in models.items():
        path.write_bytes(content)
    again = run.crash().start()
    assert again.round == 4
    again.aggregator.close()


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()  # and not in place: hard links show the same file
    if how == "cut":
        path.write_bytes(content[:-9])
    elif how == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_only_the_committed_sum_lies_on_the_disk_and_none_after_the_round(begin: Begin) -> None:
    run = begin(ZERO, quorum="3")
    for index, name in enumerate("ab"):
        run.fold_all([(name, delta(index))])
        run.aggregator.finish()
        assert len(list(run.folder.glob("sum-*"))) == 1
    run.fold_all([("c", delta(2))])
    assert run.round == 2
    assert not list(run.folder.glob("sum-*"))


def test_the_last_two_the_best_and_every_kth_model_are_kept(begin: Begin) -> None:
    scores = iter([0.0, 0.1, 0.9, 0.3, 0.2, 0.4, 0.5, 0.6])
    task = StateTask(ZERO.initial, lambda model: {"accuracy": next(scores)})
    run = begin(task, rounds=7, keep_every=4, quorum="1")
    for number in range(7):
        run.fold_all([("a", delta(number))])
    models = run.folder / "models"
    kept = sorted(int(path.stem.removeprefix("round-")) for path in models.glob("round-*"))
    assert kept == [0, 2, 4, 6, 7]
    assert (models / "best.safetensors").samefile(models / "round-00002.safetensors")
    assert (models / "last.safetensors").samefile(models / "round-00007.safetensors")
