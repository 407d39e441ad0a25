"""Which of directory and stream is believed when they disagree: neither, unless the command says so."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, payload_of, state_of

from aggregator import History
from broker.states.tensors import digest_of
from broker.wire import MAX_NUMBER
from broker.wire.codec import encode
from broker.wire.messages import BlobRef
from console import StateError
from worker.state import Positions

ZERO, ONE, EVIL = state_of(w=[0.0]), state_of(w=[1.0]), state_of(w=[666.0])


def forge(run: EmbeddedRun, **changes: Any) -> None:
    """Puts a head onto the stream as whoever may write to it could."""
    head = run.head.model_copy(update={"sha256": digest_of(EVIL)} | changes)
    run.site.broadcast(encode(head, b"" if head.blob else payload_of(EVIL)))


def another(run: EmbeddedRun, folder: Path, **changes: Any) -> EmbeddedRun:
    return EmbeddedRun.make(folder, StateTask(ZERO), broker=run.broker, rounds=9, **changes)


def test_with_an_empty_directory_an_open_run_is_not_taken_over_unless_that_is_asked_for(
    begin: Begin, tmp_path: Path
) -> None:
    run = begin(StateTask(ZERO), rounds=9)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.aggregator.close()
    other = another(run, tmp_path / "other")
    with pytest.raises(
        StateError, match=r"is open on queue 'updates', at round 2, but .* has no run; give the --state"
    ):
        other.start()
    other.aggregator.close()
    other = another(run, tmp_path / "other", take_over=True).start()
    assert (other.head.run_id, other.round, other.model["w"].tolist()) == (run.head.run_id, 2, [1.0])
    other.aggregator.close()


def test_a_forged_head_left_behind_after_a_finished_run_is_not_gone_on_from(begin: Begin, tmp_path: Path) -> None:
    run = begin(StateTask(ZERO), rounds=1)
    run.fold_all([("a", ONE), ("b", ONE)])
    assert run.aggregator.is_finished
    forge(run, is_finished=False, round=7, num_rounds=9)
    other = another(run, tmp_path / "other")
    with pytest.raises(StateError, match="--take-over"):
        other.start()
    other.aggregator.close()


def test_after_a_forged_head_the_aggregator_goes_on_from_its_directory_if_told_to(begin: Begin) -> None:
    run = begin(StateTask(ZERO), rounds=9)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.aggregator.close()
    forge(run, epoch=1000, round=77)
    again = another(run, run.folder)
    with pytest.raises(StateError, match=r"the stream 1000: .* give --trust-state"):
        again.start()
    again.aggregator.close()
    again = another(run, run.folder, trust_state=True).start()
    assert (again.head.epoch, again.round, again.model["w"].tolist()) == (1001, 2, [1.0])
    again.fold_all([("a", ONE), ("b", ONE)])
    assert again.model["w"].tolist() == [2.0]
    again.aggregator.close()
    once_more = another(run, run.folder).start()
    assert once_more.round == 3
    once_more.aggregator.close()


def test_a_forged_head_of_the_last_epoch_there_can_be_does_not_lock_the_directory(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(StateTask(ZERO), rounds=9)
    run.aggregator.close()
    forge(run, epoch=MAX_NUMBER - 1)
    again = another(run, run.folder, trust_state=True).start()
    assert again.model["w"].tolist() == [0.0]
    assert "workers that have seen its model must be started again" in caplog.text
    again.aggregator.close()


def test_no_queue_is_deleted_because_a_forged_head_names_it_as_its_blob(begin: Begin, tmp_path: Path) -> None:
    run = begin(StateTask(ZERO), rounds=1)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.broker.blobs["updates.blob.update.a.x.1"] = (b"of somebody else",)
    forge(run, blob=BlobRef(name="updates.blob.update.a.x.1", part_bytes=8), run_id="federation.00")
    other = another(run, tmp_path / "other").start()
    assert "updates.blob.update.a.x.1" in run.broker.blobs
    other.aggregator.close()


def test_a_run_after_one_whose_aggregator_had_its_clock_an_hour_ahead_is_the_later_one_for_workers(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr("aggregator.opening.beginning.time.time", lambda: now + 3600)
    first = begin(StateTask(ZERO), rounds=1)
    first.fold_all([("a", ONE), ("b", ONE)])
    monkeypatch.undo()
    positions = Positions()
    positions.accept(first.head)
    second = begin(StateTask(ZERO), folder="second", broker=first.broker, run="second")
    assert positions.replayed(second.head) is None


def test_a_forged_head_of_the_end_of_time_does_not_keep_a_new_run_from_beginning(begin: Begin) -> None:
    first = begin(StateTask(ZERO), rounds=1)
    first.fold_all([("a", ONE), ("b", ONE)])
    forge(first, began_at=1e12 - 0.5)
    second = begin(StateTask(ZERO), folder="second", broker=first.broker, run="second")
    assert second.round == 1


def test_a_run_that_is_taken_over_keeps_its_statistics_and_refuses_others(begin: Begin, tmp_path: Path) -> None:
    def file(name: str, mean: float) -> Path:
        feature = {"count": 3, "mean": mean, "std": 0.1 + 0.2, "min": -1 / 3, "max": 1e300, "quantiles": []}
        (tmp_path / name).write_text(json.dumps({"features": [feature], "labels": [1, 2]}), encoding="utf-8")
        return tmp_path / name

    run = begin(StateTask(ZERO), rounds=9, statistics=file("known.json", 2.0))
    run.fold_all([("a", ONE), ("b", ONE)])
    told = run.head.statistics
    run.aggregator.close()
    other = another(run, tmp_path / "other", take_over=True, statistics=file("unlike.json", 3.0))
    with pytest.raises(StateError, match="has other --statistics"):
        other.start()
    other.aggregator.close()
    other = another(run, tmp_path / "third", take_over=True).start()  # without the flag
    assert (other.round, other.head.statistics) == (2, told)
    assert told["mean"] == (2.0,)
    with History(other.folder) as history, History(run.folder) as before:
        assert history.facts["statistics"] == before.facts["statistics"]
    other.aggregator.close()
