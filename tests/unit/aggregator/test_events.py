"""What those who look on are told, and that they cannot disturb a run."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask

from aggregator.events import Committed, Event, RoundClosed, RoundMoved, RoundOpened, RunEnded, RunOpened, RunStopped
from broker.states.tensors import State
from console.watching import Transferring, fan_out

ZERO: State = {"w": torch.zeros(2)}
ONE: State = {"w": torch.ones(2)}
Begin = Callable[..., EmbeddedRun]


def told(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_committed_rows_are_those_of_the_ledger(begin: Begin) -> None:
    events: list[Event] = []
    run = begin(StateTask(ZERO), rounds=2, on_event=events.append)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.fold_all([("a", ONE), ("c", {"w": torch.full((2,), float("nan"))}), ("b", ONE)])
    rows = Counter((row.verdict, row.worker) for event in told(events, Committed) for row in event.rows)
    assert rows == Counter(run.query("SELECT verdict, worker FROM updates"))
    assert rows[("folded", "a")] == 2
    assert all(event.seconds > 0 for event in told(events, Committed))


def test_a_run_is_told_from_its_begin_to_its_end(begin: Begin) -> None:
    events: list[Event] = []
    run = begin(StateTask(ZERO), rounds=2, quorum="1", on_event=events.append)
    run.send("a", ONE)
    run.settle()
    run.send("a", ONE)
    run.settle()
    kinds = [RunOpened, RoundOpened, RoundClosed, RoundOpened, RoundClosed, RunEnded]
    assert [type(event) for event in events if type(event) in kinds] == kinds
    assert [event.row["num_folded"] for event in told(events, RoundClosed)] == [1, 1]


def test_a_stop_is_told_and_a_new_start_says_where_it_goes_on(begin: Begin) -> None:
    events: list[Event] = []
    run = begin(StateTask(ZERO), quorum="2", on_event=events.append)
    run.fold_all([("a", ONE)])
    run.stop()
    assert told(events, RunStopped) == [RunStopped(round=1)]
    events.clear()
    begin(StateTask(ZERO), quorum="2", broker=run.broker, on_event=events.append)
    assert told(events, RunOpened)[0].last_closed_round == 0
    assert told(events, RoundOpened) == [RoundOpened(round=1, num_folded=1, answered=["a"])]


def test_how_far_a_round_is_is_told_once_for_each_change(begin: Begin) -> None:
    events: list[Event] = []
    run = begin(StateTask(ZERO), quorum="3", on_event=events.append)
    run.fold_all([("a", ONE), ("b", ONE)])
    for _ in range(5):
        run.aggregator.step()
    assert [(move.num_folded, move.target) for move in told(events, RoundMoved)] == [(0, 3), (1, 3), (2, 3)]


def test_large_models_and_updates_are_told_of_while_they_are_on_their_way_and_small_ones_are_not(begin: Begin) -> None:
    events: list[Event] = []
    run = begin(StateTask(ZERO), rounds=2, quorum="1", inline_cap=0, part_bytes=8, on_event=events.append)
    run.send("a", ONE, blob_bytes=8)
    run.settle()
    moved = [(event.what, event.is_upload, event.num_bytes) for event in told(events, Transferring)]
    assert moved == [
        ("model of round 1", True, 0),
        ("model of round 1", True, 8),
        ("update of a", False, 0),
        ("update of a", False, 8),
        ("model of round 2", True, 0),
        ("model of round 2", True, 8),
    ]
    assert {event.total_bytes for event in told(events, Transferring)} == {8}

    events.clear()
    begin(StateTask(ZERO), folder="small", rounds=1, on_event=events.append).fold_all([("a", ONE), ("b", ONE)])
    assert told(events, RoundClosed) != []
    assert told(events, Transferring) == []


def test_a_watcher_that_fails_is_left_out_and_the_run_goes_on(begin: Begin) -> None:
    events: list[Event] = []

    def fail(event: Event) -> None:
        raise OSError("disk full")

    run = begin(StateTask(ZERO), rounds=1, on_event=fan_out(fail, events.append))
    run.fold_all([("a", ONE), ("b", ONE)])
    assert isinstance(events[-1], RunEnded)
