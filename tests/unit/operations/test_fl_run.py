"""``fl-run`` and the aggregator that it tells something, on an embedded broker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.aggregator.embedded_run import Clock, EmbeddedRun, StateTask, state_of

from aggregator.events import Event
from aggregator.watchers.status import StatusBoard
from broker.memory import MemoryBroker, MemoryTransport
from broker.wire.codec import encode
from broker.wire.signatures import Believing
from broker.wire.topology import Topology
from console.errors import BrokerUnreachable, FedmqError, QueueMissing
from operations.runs import run_cli
from operations.runs.telling import tell
from operations.snapshot import Condition

INITIAL, ONE = state_of(weight=[0.0]), state_of(weight=[1.0])


class Run:
    """A run whose aggregator takes a step, and reports, whenever somebody waits for it."""

    def __init__(self, folder: Path) -> None:
        clock = Clock()
        self.board = StatusBoard(clock=clock)
        self.broker = MemoryBroker()
        self.is_busy = False
        self.waited_s = 0.0
        self.run = EmbeddedRun.make(
            folder, StateTask(INITIAL), broker=self.broker, clock=clock, rounds=5, quorum="1", on_event=self.on_event
        ).start()
        self.report()

    def on_event(self, event: Event) -> None:
        self.board.on_event(event)

    def report(self) -> None:
        status = self.board.status()
        assert status is not None
        self.broker.status = encode(status)

    def wait(self, seconds: float) -> None:
        self.waited_s += seconds
        if not self.is_busy:
            self.run.settle()
            self.report()

    def tell(self, text: str, *, within_s: float = 5.0) -> Any:
        verb, *words = text.split()
        transport = MemoryTransport(self.broker)
        return tell(
            transport,
            Topology("updates"),
            Believing(),
            verb=verb,
            words=words,
            within_s=within_s,
            clock=lambda: self.waited_s,
            sleep=self.wait,
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_the_answer_comes_with_how_the_run_stands(run: Run) -> None:
    answer, snapshot = run.tell("pause")
    assert (answer.is_accepted, answer.text.partition(":")[0]) == (True, "paused in round 1")
    assert snapshot.status is not None
    assert snapshot.status.is_paused
    answer, snapshot = run.tell("set lr=2e9")
    assert (answer.is_accepted, answer.text) == (
        False,
        "--lr: Input should be less than or equal to 1000000 (given: '2e9')",
    )


def test_an_answer_that_was_given_before_a_restart_is_found_after_it(run: Run) -> None:
    run.is_busy = True
    with pytest.raises(BrokerUnreachable):
        run.tell("pause", within_s=1.0)
    run.run.settle()
    again = run.run.crash()
    board = StatusBoard()
    again.aggregator._on_event = board.on_event
    again.start()
    status = board.status()
    assert status is not None
    assert [each.text.partition(":")[0] for each in status.answers] == ["paused in round 1"]


def test_without_an_answer_in_time_it_says_that_the_command_waits(run: Run) -> None:
    run.is_busy = True
    with pytest.raises(BrokerUnreachable, match=r"no answer within 5 s; 'finish' is on the queue"):
        run.tell("finish")
    run.is_busy = False
    run.run.settle()
    run.run.fold_all([("a", ONE)])
    assert run.run.aggregator.is_finished


def test_a_run_that_is_finished_is_told_nothing(run: Run) -> None:
    run.tell("finish now")
    with pytest.raises(FedmqError, match="is finished after 0 rounds; its command goes on with it"):
        run.tell("pause")


def test_where_no_aggregator_ever_was_there_is_nothing_to_tell() -> None:
    transport = MemoryTransport(MemoryBroker())
    with pytest.raises(QueueMissing, match="no aggregator was ever started"):
        tell(transport, Topology("updates"), Believing(), verb="pause", words=(), within_s=1.0)


def test_stop_is_answered_by_the_last_status(run: Run) -> None:
    def stop_and_report(seconds: float) -> None:
        run.run.settle()
        if not run.run.aggregator.is_running:
            run.run.aggregator.finish()
        run.report()

    run.wait = stop_and_report  # type: ignore[method-assign]
    answer, snapshot = run.tell("stop")
    assert answer.is_accepted
    assert snapshot.condition is Condition.STOPPED


@pytest.fixture
def fl_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command, connected to that run's broker."""
    monkeypatch.setattr(run_cli, "look", lambda *args, **options: MemoryTransport(run.broker))
    monkeypatch.setattr("operations.runs.telling.time.sleep", run.wait)
    monkeypatch.setattr(tell, "__kwdefaults__", dict(tell.__kwdefaults__ or {}, sleep=run.wait))
    return lambda *words: run_cli.main(words)


def test_the_command_prints_the_answer_and_how_the_run_stands(
    fl_run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fl_run("set", "lr=0.01", "--queue", "updates") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "from round 2 on: lr 0.01 (0.05 before)"
    assert printed[1].startswith("run federation (federation.")
    assert printed[1].endswith("round 1 of 5, state running, updates 0 of 1 folded, deadline in 600 s")


def test_a_refusal_is_one_line_with_its_reason_and_exit_code_1(
    fl_run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fl_run("include", "ward") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "fl-run: refused: ward: not excluded; excluded: nobody"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["pause", "now"], "pause takes nothing more"),
        (["set"], "set takes at least one argument"),
        (["pause", "--now"], "--now goes with finish"),
        (["dance"], "Input should be 'pause', 'resume'"),
    ],
)
def test_wrong_use_is_said_before_anything_is_sent(
    words: list[str], reason: str, fl_run: Callable[..., int], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fl_run(*words) == 2
    assert reason in capsys.readouterr().err
    assert not run.broker.queues["commands"]
