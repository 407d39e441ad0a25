"""What the aggregator says of itself: made from its events."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask

from aggregator.events import (
    Committed,
    RoundMoved,
    RoundOpened,
    RunOpened,
    UpdateDecided,
    UpdatesOutvoted,
    UpdateWithdrawn,
    WorkerSeen,
)
from aggregator.state.ledger import UpdateRow, Verdict
from aggregator.watchers.status import StatusBoard, StatusSender
from broker.memory import MemoryTransport
from broker.states.tensors import State
from broker.wire.codec import decode
from broker.wire.messages import MAX_LISTED, Presence, Status
from broker.wire.signatures import Believing

ZERO: State = {"w": torch.zeros(2)}
ONE: State = {"w": torch.ones(2)}
INSTANCE = "0123456789abcdef"
Begin = Callable[..., EmbeddedRun]


def presence(worker: str, state: str = "idle", **changes: object) -> WorkerSeen:
    fields = {"worker": worker, "instance": INSTANCE, "state": state} | changes
    return WorkerSeen(presence=Presence.model_validate(fields))


def opened() -> RunOpened:
    return RunOpened(run="r", run_id="r.1", queue="q", state=Path("state"), num_rounds=9, last_closed_round=0)


def folded(worker: str) -> UpdateRow:
    return UpdateRow(received_at=1.0, round=1, verdict=Verdict.FOLDED, worker=worker)


def moved(num_folded: int, *, deadline_at: float | None = None) -> RoundMoved:
    return RoundMoved(
        round=1, num_folded=num_folded, target=3, num_present=2, deadline_at=deadline_at, is_extended=False
    )


class Seen:
    """A board with a clock of its own, fed by a run's events."""

    def __init__(self) -> None:
        self.now = 5000.0
        self.board = StatusBoard(num_shards=3, now=lambda: self.now, clock=lambda: 1000.0)

    @property
    def status(self) -> Status:
        status = self.board.status()
        assert status is not None
        return status


def test_nothing_is_said_before_the_run_is_open() -> None:
    assert Seen().board.status() is None


def test_a_running_round_is_told_with_who_answered(begin: Begin) -> None:
    seen = Seen()
    run = begin(StateTask(ZERO), rounds=4, quorum="3", deadline_s=60.0, on_event=seen.board.on_event)
    seen.board.on_event(presence("a", "training", progress=0.5, round=1))
    seen.board.on_event(presence("b"))
    run.fold_all([("b", ONE)])
    status = seen.status
    assert (status.run_id, status.state, status.round, status.num_rounds) == (run.head.run_id, "running", 1, 4)
    assert (status.num_folded, status.target, status.deadline_at) == (1, 3, 5060.0)
    assert [(worker.name, worker.state, worker.progress, worker.has_answered) for worker in status.workers] == [
        ("a", "training", 0.5, False),
        ("b", "idle", 0.0, True),
    ]


def test_who_leaves_or_falls_silent_is_not_told_any_more(begin: Begin) -> None:
    seen = Seen()
    begin(StateTask(ZERO), on_event=seen.board.on_event)
    for name in ("a", "b", "c"):
        seen.board.on_event(presence(name))
    seen.board.on_event(presence("b", "leaving"))
    seen.now += 34
    seen.board.on_event(presence("c"))
    seen.now += 2
    assert [worker.name for worker in seen.status.workers] == ["c"]


def test_who_speaks_once_a_minute_is_told_for_as_long(begin: Begin) -> None:
    seen = Seen()
    begin(StateTask(ZERO), on_event=seen.board.on_event)
    seen.board.on_event(presence("slow", every_s=60.0))
    seen.board.on_event(presence("usual"))
    seen.now += 36
    assert [worker.name for worker in seen.status.workers] == ["slow"]
    assert seen.status.num_present == 1
    seen.now += 175
    assert seen.status.num_present == 0


def test_a_new_round_has_no_answers_and_the_end_is_told(begin: Begin) -> None:
    seen = Seen()
    run = begin(StateTask(ZERO), rounds=2, quorum="1", on_event=seen.board.on_event)
    seen.board.on_event(presence("a"))
    run.fold_all([("a", ONE)])
    assert (seen.status.round, seen.status.workers[0].has_answered) == (2, False)
    run.fold_all([("a", ONE)])
    assert (seen.status.state, seen.status.round, seen.status.deadline_at) == ("finished", 2, None)


def test_who_answered_before_a_restart_has_answered(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="3")
    run.fold_all([("a", ONE)])
    run.stop()
    seen = Seen()
    seen.board.on_event(presence("a"))
    begin(StateTask(ZERO), quorum="3", broker=run.broker, on_event=seen.board.on_event)
    seen.board.on_event(presence("b"))
    assert (seen.status.num_folded, seen.status.target) == (1, 3)
    assert [worker.has_answered for worker in seen.status.workers] == [True, False]


def test_who_is_undone_has_not_answered_and_who_was_committed_has() -> None:
    seen = Seen()
    seen.board.on_event(opened())
    for name in ("a", "b"):
        seen.board.on_event(presence(name))
    seen.board.on_event(RoundOpened(round=1, num_folded=0))
    seen.board.on_event(UpdateDecided(row=folded("a")))
    seen.board.on_event(Committed(rows=(folded("a"),), seconds=0.1))
    seen.board.on_event(UpdateDecided(row=folded("b")))
    seen.board.on_event(moved(2))
    assert [worker.has_answered for worker in seen.status.workers] == [True, True]
    seen.board.on_event(moved(1))
    assert [worker.has_answered for worker in seen.status.workers] == [True, False]


def test_a_deadline_that_never_comes_is_none() -> None:
    seen = Seen()
    seen.board.on_event(opened())
    seen.board.on_event(moved(0, deadline_at=math.inf))
    assert seen.status.deadline_at is None
    seen.board.on_event(moved(0, deadline_at=1001.0))
    assert seen.status.deadline_at == 5001.0


def test_what_is_of_no_worker_or_of_another_round_is_no_answer() -> None:
    seen = Seen()
    seen.board.on_event(opened())
    seen.board.on_event(presence("a"))
    seen.board.on_event(RoundOpened(round=2, num_folded=0))
    seen.board.on_event(UpdateDecided(row=folded("a")))
    seen.board.on_event(UpdateDecided(row=UpdateRow(received_at=1.0, round=2, verdict=Verdict.REFUSED, worker="a")))
    seen.board.on_event(UpdateDecided(row=UpdateRow(received_at=1.0, round=2, verdict=Verdict.FOLDED)))
    assert [worker.has_answered for worker in seen.status.workers] == [False]


def test_of_very_many_workers_some_are_listed(begin: Begin) -> None:
    seen = Seen()
    begin(StateTask(ZERO), on_event=seen.board.on_event)
    for number in range(MAX_LISTED + 7):
        seen.board.on_event(presence(f"w{number:05d}"))
    assert (len(seen.status.workers), seen.status.num_more_workers) == (MAX_LISTED, 7)
    assert seen.status.num_present == MAX_LISTED + 7


def test_it_is_sent_at_the_end_at_the_latest(begin: Begin) -> None:
    run = begin(StateTask(ZERO))
    transport = MemoryTransport(run.broker)
    sender = StatusSender(transport, trust=Believing())
    begin(StateTask(ZERO), folder="other", on_event=sender.on_event).stop()
    with sender:
        pass
    body = transport.read_status()
    assert body is not None
    assert decode(body, Status)[0].state == "stopped"


class Broken(MemoryTransport):
    """A broker that nothing can be said to."""

    def send_status(self, body: bytes) -> None:
        raise OSError("no more memory")


def test_one_that_cannot_be_sent_is_told_once_and_ends_nothing(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(StateTask(ZERO), quorum="1", rounds=2)
    sender = StatusSender(Broken(run.broker), trust=Believing())
    other = begin(StateTask(ZERO), quorum="1", rounds=1, folder="other", on_event=sender.on_event)
    with caplog.at_level(logging.ERROR), sender:
        other.fold_all([("a", ONE)])
    assert other.aggregator.is_finished
    assert [record.message for record in caplog.records] == [
        "cannot send the snapshot for fl-status; sending no more of them; the run goes on"
    ]


def test_a_worker_whose_update_was_taken_out_has_not_answered() -> None:
    seen = Seen()
    for event in (opened(), RoundOpened(round=1, num_folded=0), presence("a"), presence("b")):
        seen.board.on_event(event)
    seen.board.on_event(Committed(rows=(folded("a"), folded("b")), seconds=0.1))
    seen.board.on_event(UpdateWithdrawn(round=1, worker="a", num_samples=1, reason="is not on the roster"))
    seen.board.on_event(moved(1))
    assert [(worker.name, worker.has_answered) for worker in seen.status.workers] == [("a", False), ("b", True)]
    assert seen.status.num_folded == 1


def test_it_counts_how_often_a_worker_was_outvoted_also_before_a_restart() -> None:
    board = StatusBoard()
    board.on_event(replace(opened(), outvoted={"site-1": 2}))
    board.on_event(presence("site-1"))
    board.on_event(UpdatesOutvoted(round=1, scores={"site-1": 9.5}, num_updates=7))
    status = board.status()
    assert status is not None
    assert [worker.num_outvoted for worker in status.workers] == [3]
