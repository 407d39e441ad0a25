"""A worker that has no update says so: it is named, it is not waited for, and it is counted once."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from embedded_run import EmbeddedRun, StateTask, state_of
from sharded_run import ShardedRun

from aggregator import cli
from aggregator.rounds.answers import Excuse, PassOver, decide_on_answer
from aggregator.state.ledger import Verdict
from aggregator.watchers.status import StatusBoard
from broker.memory import MemoryTransport
from broker.wire.codec import decode, encode, is_of_kind
from broker.wire.messages import ModelHead, Reply, UpdateHead
from console.errors import TaskError
from learning.task import Plan
from worker.config import WorkerConfig
from worker.service import Worker

pytestmark = pytest.mark.timeout(30)

WHY = "training gave NaN or infinity in 'w'"
ONE = state_of(w=[2.0])


def run_in(folder: Path, **changes: Any) -> EmbeddedRun:
    return EmbeddedRun.make(folder, StateTask(state_of(w=[1.0])), **changes).start()


def answer(run: EmbeddedRun, worker: str, **changes: Any) -> Reply:
    fields: dict[str, Any] = {
        "run_id": run.head.run_id,
        "worker": worker,
        "instance": "0123456789abcdef",
        "round": run.round,
        "model_sha256": run.head.sha256,
        "outcome": "diverged",
        "reason": WHY,
        "sent_at": 1.0,
    }
    return Reply.model_validate(fields | changes)


def say(run: EmbeddedRun, worker: str, **changes: Any) -> None:
    run.site.send(encode(answer(run, worker, **changes)), worker=worker)
    run.settle()


def test_a_count_does_not_wait_for_who_has_no_update(tmp_path: Path) -> None:
    run = run_in(tmp_path, quorum="3", rounds=1)
    run.fold_all([("a", ONE), ("b", ONE)])
    assert run.round == 1
    say(run, "c")
    assert run.closed("round, closed_by, num_folded, num_diverged") == [(1, "quorum", 2, 1)]
    assert run.query("SELECT worker, verdict, reason FROM updates WHERE worker = 'c'") == [("c", "diverged", WHY)]
    assert run.summary["rounds"][0]["diverged"] == 1


def test_a_share_counts_those_who_can(tmp_path: Path) -> None:
    run = run_in(tmp_path, quorum="100%")
    for worker in ("a", "b", "c"):
        run.announce(worker)
    say(run, "c")
    run.fold_all([("a", ONE)])
    assert run.round == 1
    run.fold_all([("b", ONE)])
    assert run.round == 2


def test_an_answer_repeated_counts_once_and_a_worker_that_can_after_all_is_folded(tmp_path: Path) -> None:
    run = run_in(tmp_path, quorum="3")
    say(run, "c")
    say(run, "c")
    say(run, "c", instance="f" * 16)
    run.send("c", ONE)
    run.fold_all([("a", ONE)])
    assert run.round == 1  # three again: c is no longer one of those who cannot
    say(run, "a")
    assert run.verdicts() == [
        ("c", "diverged"),
        ("c", "duplicate"),
        ("c", "folded"),
        ("a", "folded"),
    ]


@pytest.mark.parametrize(("on_short", "by"), [("extend", "abandoned"), ("abandon", "abandoned"), ("accept", "short")])
def test_a_round_in_which_nobody_can_train_is_over_at_once_and_says_who(
    tmp_path: Path, on_short: str, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_in(tmp_path, quorum="2", rounds=1, on_short=on_short, deadline_s=None)
    say(run, "a")
    assert run.closed() == []
    with caplog.at_level(logging.ERROR):
        say(run, "b")
    assert run.closed() == [(1, by)]
    assert torch.equal(run.model["w"], torch.tensor([1.0], dtype=torch.float64))
    assert f"no worker had an update; a: {WHY}; b: {WHY}" in caplog.text


@pytest.mark.parametrize("after", ["the answer", "the commit", "the ack"])
def test_killed_at_any_point_of_an_answer_the_round_ends_the_same(tmp_path: Path, after: str) -> None:
    run = run_in(tmp_path, quorum="3", rounds=1)
    run.send("a", ONE)
    say(run, "c")
    if after == "the commit":  # and before the ack: it is delivered again
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(MemoryTransport, "ack", lambda *given: None)
            run.aggregator._current.commit()
    elif after == "the ack":
        run.aggregator._current.commit()
    run = run.crash().start()
    run.fold_all([("b", state_of(w=[4.0]))])
    assert run.closed("closed_by, num_folded, num_diverged, num_duplicate") == [("quorum", 2, 1, 0)]
    assert run.model["w"].tolist() == [4.0]


def test_after_a_kill_a_committed_answer_still_counts_and_is_not_counted_twice(tmp_path: Path) -> None:
    run = run_in(tmp_path, quorum="3")
    say(run, "c")
    run.aggregator._current.commit()
    run = run.crash().start()
    say(run, "c")
    run.fold_all([("a", ONE), ("b", ONE)])
    assert run.round == 2
    assert run.query("SELECT worker, verdict FROM updates WHERE worker = 'c'") == [("c", "diverged")]


def test_after_a_kill_an_answer_that_was_not_committed_comes_again(tmp_path: Path) -> None:
    run = run_in(tmp_path, quorum="3")
    say(run, "c")
    run = run.crash().start()
    run.fold_all([("a", ONE), ("b", ONE)])
    assert run.round == 2


def test_an_answer_for_another_run_round_or_model_or_under_another_name_is_set_aside(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    say(run, "a", run_id="other.1")
    say(run, "a", round=2)
    say(run, "a", model_sha256="0" * 64)
    run.site.send(encode(answer(run, "b")), worker="a")
    run.settle()
    assert [reason.split(";")[0].split(",")[0] for reason in run.reasons] == [
        "reply of run other.1",
        "reply for round 2",
        "it was trained from model 000000000000…",
        "claims to be from b",
    ]


def test_fl_status_tells_who_has_no_update(tmp_path: Path) -> None:
    board = StatusBoard()
    run = run_in(tmp_path, on_event=board.on_event)
    run.announce("c")
    say(run, "c")
    status = board.status()
    assert status is not None
    assert [(worker.name, worker.no_update) for worker in status.workers] == [("c", WHY)]


def test_what_is_decided_on_an_answer_depends_on_its_key_and_round_alone(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    given = answer(run, "a")
    assert decide_on_answer(given, open_round=1, max_staleness=0, known=None) == Excuse()
    assert decide_on_answer(given, open_round=3, max_staleness=2, known=None) == Excuse()
    late = decide_on_answer(given, open_round=2, max_staleness=0, known=None)
    assert isinstance(late, PassOver)
    assert late.verdict is Verdict.LATE
    repeated = decide_on_answer(given, open_round=1, max_staleness=0, known=given.instance)
    assert repeated == PassOver(Verdict.DUPLICATE, "an answer of a for round 1 is in already", has_row=False)


def test_an_answer_is_told_from_an_update_by_its_first_bytes(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    assert is_of_kind(encode(answer(run, "a")), Reply)
    assert not is_of_kind(run.update("a", ONE), Reply)
    assert not is_of_kind(encode(answer(run, "a")), UpdateHead)
    assert not is_of_kind(b"", Reply)
    assert not is_of_kind(b"FMQ\x02", Reply)


class Poisoned(StateTask):
    """Its data has a NaN."""

    def train(self, model: torch.nn.Module, plan: Plan) -> dict[str, float]:
        with torch.no_grad():
            model.w.fill_(float("nan"))  # type: ignore[operator, union-attr]
        return {"num_samples": 1}


def step_of_poisoned(run: EmbeddedRun) -> None:
    config = WorkerConfig(name="site-3", topology=run.topology, inline_cap=2**20)
    site = Worker(config, Poisoned(state_of(w=[1.0])), MemoryTransport(run.broker))
    site.start()
    site.step()


def test_a_worker_that_diverged_names_itself_at_both_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_in(tmp_path, quorum="1", rounds=1)
    step_of_poisoned(run)
    assert "no update of 'site-3': training gave NaN or infinity in 'w'" in caplog.text
    run.settle()
    assert "site-3           no update  training gave NaN" in caplog.text
    assert run.closed() == [(1, "abandoned")]


def test_the_command_ends_with_an_error_if_workers_only_diverged(tmp_path: Path) -> None:
    run = run_in(tmp_path, quorum="1", rounds=1)
    step_of_poisoned(run)
    run.settle()
    assert run.aggregator.is_finished
    role = cli._Root(run.settings, ())
    with pytest.raises(TaskError, match="no result: in 1 rounds no update was folded, 1 times a worker diverged"):
        role.finished()
    assert (run.folder / "report.html").is_file()


def test_an_aggregator_that_does_not_take_answers_gets_none(tmp_path: Path) -> None:
    run = run_in(tmp_path, quorum="1", rounds=1)
    head, payload = decode(run.broker.heads[-1], ModelHead)
    run.site.broadcast(encode(head.model_copy(update={"replies": (), "epoch": 5}), payload))
    step_of_poisoned(run)
    run.settle()
    assert run.closed() == []


def test_a_partial_aggregator_passes_an_answer_on_and_its_shard_waits_no_longer(tmp_path: Path) -> None:
    run = ShardedRun.make(tmp_path, num_shards=1, quorum="2").start()
    run.answer(["a", "b"])
    run.pass_time()
    assert run.root.round == 2
    run.send_bytes("b", encode(answer(run.root, "b")))
    run.answer(["a"])
    run.settle()  # no time has to pass: all that answered before have done so again
    assert run.root.round == 3
    rows = run.root.query("SELECT worker, verdict FROM updates WHERE round = 2 ORDER BY worker")
    assert rows == [("a", "folded"), ("b", "diverged")]
