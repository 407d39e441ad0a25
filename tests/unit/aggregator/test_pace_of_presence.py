"""How many signs of life there are a second, however many workers are there, and what one costs the aggregator."""

from pathlib import Path

import pytest
import torch
from embedded_run import INSTANCE, EmbeddedRun, StateTask

from aggregator.presence.pace import SIGNS_PER_S, asked_every_s
from broker.wire.codec import encode
from broker.wire.messages import Presence

pytestmark = pytest.mark.timeout(30)

ONE = {"w": torch.ones(2)}


def run_in(folder: Path) -> EmbeddedRun:
    return EmbeddedRun.make(folder, StateTask({"w": torch.zeros(2)}), quorum="1").start()


def announce(run: EmbeddedRun, number: int, **changes: object) -> None:
    for index in range(number):
        fields = {"worker": f"w-{index}", "instance": INSTANCE, "state": "idle"} | changes
        run.site.announce(encode(Presence.model_validate(fields)), worker=f"w-{index}")
    run.settle(most=2 * number + 100)


@pytest.mark.parametrize(
    ("num_present", "every_s"),
    [(0, None), (8, None), (500, None), (501, 20), (1000, 20), (1001, 30), (2501, 60), (10_000, 60), (10**6, 60)],
)
def test_the_interval_grows_with_the_number_present_up_to_a_minute(num_present: int, every_s: float | None) -> None:
    assert asked_every_s(num_present) == every_s
    if num_present <= 60 * SIGNS_PER_S:
        assert num_present / (every_s or 10.0) <= SIGNS_PER_S


def test_the_next_head_asks_those_of_a_crowd_for_fewer_signs_of_life_and_few_for_nothing(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    assert run.head.presence_every_s is None
    announce(run, 600)
    run.site.send(run.update("w-0", ONE), worker="w-0")
    run.settle()
    assert (run.round, run.head.presence_every_s) == (2, 20.0)
    assert b"presence_every_s" in run.broker.heads[-1]
    announce(run, 550, state="leaving")
    run.site.send(run.update("w-0", ONE), worker="w-0")
    run.settle()
    assert run.round == 3
    assert b"presence_every_s" not in run.broker.heads[-1]


def test_a_worker_that_is_still_there_makes_nothing_due_and_one_that_comes_or_goes_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, looks = run_in(tmp_path), []
    look = run.aggregator._do_what_is_due
    monkeypatch.setattr(run.aggregator, "_do_what_is_due", lambda: (looks.append(None), look()))

    def num_looks(**changes: object) -> int:
        looks.clear()
        fields = {"worker": "w-0", "instance": INSTANCE, "state": "idle"} | changes
        run.site.announce(encode(Presence.model_validate(fields)), worker="w-0")
        assert run.aggregator.step(3600.0)
        return len(looks)

    assert num_looks() == 1
    assert num_looks() == num_looks(state="training", round=1) == 0
    assert num_looks(every_s=60.0) == 1, "it may be silent for longer than anybody so far, which is recorded"
    assert num_looks(state="leaving") == 1
