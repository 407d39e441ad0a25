"""What the aggregator says of itself: made from its events."""

from collections.abc import Callable

import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask

from aggregator.events import WorkerSeen
from aggregator.presence import ALIVE_S
from aggregator.status import StatusBoard, StatusSender
from broker.codec import decode
from broker.memory import MemoryTransport
from broker.messages import MAX_LISTED, Presence, Status
from broker.tensors import State

ZERO: State = {"w": torch.zeros(2)}
ONE: State = {"w": torch.ones(2)}
INSTANCE = "0123456789abcdef"
Begin = Callable[..., EmbeddedRun]


def presence(worker: str, state: str = "idle", **changes: object) -> WorkerSeen:
    fields = {"worker": worker, "instance": INSTANCE, "state": state} | changes
    return WorkerSeen(presence=Presence.model_validate(fields))


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
    run = begin(StateTask(ZERO), rounds=4, quorum="3", deadline_s=60.0, on_event=seen.board.look)
    seen.board.look(presence("a", "training", progress=0.5, round=1))
    seen.board.look(presence("b"))
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
    begin(StateTask(ZERO), on_event=seen.board.look)
    for name in ("a", "b", "c"):
        seen.board.look(presence(name))
    seen.board.look(presence("b", "leaving"))
    seen.now += ALIVE_S - 1
    seen.board.look(presence("c"))
    seen.now += 2
    assert [worker.name for worker in seen.status.workers] == ["c"]


def test_a_new_round_has_no_answers_and_the_end_is_told(begin: Begin) -> None:
    seen = Seen()
    run = begin(StateTask(ZERO), rounds=2, quorum="1", on_event=seen.board.look)
    seen.board.look(presence("a"))
    run.fold_all([("a", ONE)])
    assert (seen.status.round, seen.status.workers[0].has_answered) == (2, False)
    run.fold_all([("a", ONE)])
    assert (seen.status.state, seen.status.round, seen.status.deadline_at) == ("finished", 2, None)


def test_of_very_many_workers_some_are_listed(begin: Begin) -> None:
    seen = Seen()
    begin(StateTask(ZERO), on_event=seen.board.look)
    for number in range(MAX_LISTED + 7):
        seen.board.look(presence(f"w{number:05d}"))
    assert (len(seen.status.workers), seen.status.num_more_workers) == (MAX_LISTED, 7)
    assert seen.status.num_present == MAX_LISTED + 7


def test_it_is_sent_at_the_end_at_the_latest(begin: Begin) -> None:
    run = begin(StateTask(ZERO))
    transport = MemoryTransport(run.broker)
    sender = StatusSender(transport)
    begin(StateTask(ZERO), folder="other", on_event=sender.look).stop()
    with sender:
        pass
    body = transport.read_status()
    assert body is not None
    assert decode(body, Status)[0].state == "stopped"
