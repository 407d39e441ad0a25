"""What an aggregator's person sees: made of events alone, on a clock of the test's own."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from unit.rendered import lines_of, text_of

from aggregator.events import (
    RoundClosed,
    RoundMoved,
    RoundOpened,
    RunEnded,
    RunOpened,
    RunStopped,
    StandingBy,
    UpdateDecided,
    UpdateWithdrawn,
    WorkerSeen,
)
from aggregator.state.early_stop import Aim
from aggregator.state.ledger import UpdateRow, Verdict
from aggregator.watchers.view import AggregatorView
from broker.wire.messages import Presence
from console.watching import LinkChanged, Transferring
from learning.metrics import Direction


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(clock: Clock) -> AggregatorView:
    """Of a run of 20 rounds, with the first one open."""
    view = AggregatorView(clock=clock)
    view.on_event(RunOpened(run="r", run_id="r.1", queue="q", state=Path("s"), num_rounds=20, last_closed_round=0))
    view.on_event(RoundOpened(round=1, num_folded=0))
    return view


def moved(num_folded: int, *, target: int = 4, deadline_at: float | None = None, **fields: Any) -> RoundMoved:
    values = {"round": 1, "num_present": target, "is_extended": False} | fields
    return RoundMoved(num_folded=num_folded, target=target, deadline_at=deadline_at, **values)


def seen(
    name: str, state: str = "training", progress: float = 0.0, round_number: int = 1, every_s: float | None = None
) -> WorkerSeen:
    fields = {"state": state, "progress": progress, "round": round_number, "every_s": every_s}
    presence = Presence.model_validate({"worker": name, "instance": "0" * 8} | fields)
    return WorkerSeen(presence=presence)


def decided(name: str, verdict: Verdict = Verdict.FOLDED) -> UpdateDecided:
    return UpdateDecided(row=UpdateRow(received_at=0.0, round=1, verdict=verdict, worker=name))


def closed(number: int, loss: float, **counts: int) -> RoundClosed:
    numbers = {f"num_{verdict}": 0 for verdict in Verdict} | {"num_folded": 4} | counts
    return RoundClosed(row={"round": number, "metrics": {"loss": loss}, "worker_metrics": {}, **numbers})


def line_with(view: AggregatorView, text: str, *, width: int = 80) -> str:
    return next(line for line in lines_of(view, width=width) if text in line)


def test_a_round_fills_up_with_those_who_have_answered(view: AggregatorView) -> None:
    for name in ("a", "b", "c"):
        view.on_event(seen(name, progress=0.43 if name == "b" else 0.0))
    view.on_event(seen("d", "sending"))
    view.on_event(decided("a"))
    view.on_event(moved(1))
    assert line_with(view, "round 1").endswith("1 of 4 updates")
    assert line_with(view, "workers").endswith("4 present, 1 answered")
    assert line_with(view, "✓").split("  ")[-4:] == ["✓ a", "▸ b 43%", "▸ c", "↑ d"]

    for name in ("b", "c", "d"):
        view.on_event(decided(name))
    view.on_event(moved(4))
    assert line_with(view, "round 1").endswith("4 of 4 updates, closing")
    assert line_with(view, "updates  ").endswith("4 folded")


def test_refused_and_late_updates_are_marked_and_counted(view: AggregatorView) -> None:
    view.on_event(seen("a"))
    view.on_event(moved(0))
    view.on_event(decided("a", Verdict.REFUSED))
    view.on_event(decided("forged", Verdict.REFUSED))
    view.on_event(seen("b"))
    view.on_event(decided("b", Verdict.LATE))
    assert "✗ a" in text_of(view)
    assert "forged" not in text_of(view)
    assert "▸ b" in text_of(view)  # it trains for this round; what was late was of another
    assert line_with(view, "updates  ").endswith("0 folded, 1 late, 2 refused")

    view.on_event(closed(1, 0.5, num_late=1, num_refused=2))
    assert line_with(view, "updates  ").endswith("4 folded, 1 late, 2 refused")


def test_a_deadline_runs_down(view: AggregatorView, clock: Clock) -> None:
    view.on_event(moved(0, deadline_at=clock.now + 60))
    assert line_with(view, "deadline").endswith("1:00 left")
    full = line_with(view, "deadline").count("━")
    clock.now += 45
    assert line_with(view, "deadline").endswith("0:15 left")
    assert line_with(view, "deadline").count("━") < full / 2
    clock.now += 20
    assert line_with(view, "deadline").endswith("passed")


def test_metrics_have_their_trend_and_the_best_so_far(view: AggregatorView) -> None:
    for number, loss in enumerate([0.9, 0.5, 0.1, 0.3], start=1):
        view.on_event(closed(number, loss))
    assert line_with(view, "loss").split() == ["loss", "0.3000", "↑", "worse", "█▅▁▃", "best", "0.1000,", "round", "3"]


def test_the_best_so_far_is_so_by_the_run_s_direction() -> None:
    view = AggregatorView()
    fields: dict[str, Any] = {"run": "r", "run_id": "r.1", "queue": "q", "state": Path("s"), "num_rounds": 20}
    closed_before = [closed(number, loss).row for number, loss in enumerate([0.5, 0.9, 0.1], start=1)]
    aim = Aim("loss", Direction.MAX)
    view.on_event(RunOpened(**fields, last_closed_round=3, closed=closed_before, aim=aim))
    assert line_with(view, "loss").split()[-4:] == ["best", "0.9000,", "round", "2"]


def test_usual_metrics_are_shown_first_in_the_order_of_the_page(view: AggregatorView) -> None:
    row = closed(1, 0.5).row | {"metrics": {"f1": 0.1, "loss": 0.2, "accuracy": 0.3}}
    view.on_event(RoundClosed(row=row))
    words = [line.split()[0] for line in lines_of(view) if line.split()[:1]]
    assert [word for word in words if word in ("f1", "loss", "accuracy")] == ["accuracy", "loss", "f1"]


def timed(number: int, seconds: float) -> RoundClosed:
    event = closed(number, 0.5)
    return RoundClosed(row={**event.row, "seconds": seconds})


def test_the_time_to_go_follows_from_what_rounds_took_also_before_a_restart(clock: Clock) -> None:
    view = AggregatorView(clock=clock)
    rows = [timed(number, 10.0).row for number in range(1, 6)]
    fields: dict[str, Any] = {"run": "r", "run_id": "r.1", "queue": "q", "state": Path("s"), "num_rounds": 20}
    view.on_event(RunOpened(**fields, last_closed_round=5, closed=rows))
    clock.now += 300.0  # the first round after the restart waits for its workers
    assert line_with(view, "rounds").endswith("5 of 20  5:00  about 2:30 to go")
    view.on_event(timed(6, 310.0))
    assert line_with(view, "rounds").endswith("6 of 20  5:00  about 2:20 to go")


def test_rounds_that_have_become_slow_count_more_than_those_long_ago(view: AggregatorView) -> None:
    for number in range(1, 20):
        view.on_event(timed(number, 1.0 if number < 11 else 60.0))
    assert line_with(view, "rounds").endswith("about 1:00 to go")


def test_rounds_before_a_restart_are_part_of_the_trend() -> None:
    view = AggregatorView()
    rows = [closed(number, 1 / number).row for number in (1, 2, 3)]
    view.on_event(
        RunOpened(run="r", run_id="r.1", queue="q", state=Path("s"), num_rounds=20, last_closed_round=3, closed=rows)
    )
    assert line_with(view, "loss").split()[1:5] == ["0.3333", "↓", "better", "█▃▁"]
    assert "3 of 20" in line_with(view, "rounds")


def test_a_transfer_has_its_progress_and_speed_and_one_that_breaks_off_says_so(
    view: AggregatorView, clock: Clock
) -> None:
    def transfer(num_bytes: int) -> Transferring:
        return Transferring(what="update of a", is_upload=False, num_bytes=num_bytes, total_bytes=100_000_000)

    view.on_event(transfer(0))
    clock.now += 2
    view.on_event(transfer(50_000_000))
    assert line_with(view, "↓").endswith("50.0 of 100.0 MB  25.0 MB/s  update of a")
    view.on_event(decided("a", Verdict.REFUSED))
    assert line_with(view, "↓", width=100).endswith("update of a  broke off")
    view.on_event(transfer(0))
    clock.now += 1
    view.on_event(transfer(100_000_000))
    assert line_with(view, "↓").endswith("100.0 MB  100.0 MB/s  update of a")


def test_of_several_transfers_each_has_its_own_speed_and_end(view: AggregatorView, clock: Clock) -> None:
    def transfer(worker: str, num_bytes: int) -> Transferring:
        return Transferring(what=f"update of {worker}", is_upload=False, num_bytes=num_bytes, total_bytes=100_000_000)

    view.on_event(transfer("a", 0))
    clock.now += 1
    view.on_event(transfer("b", 0))
    clock.now += 1
    view.on_event(transfer("a", 100_000_000))
    assert line_with(view, "↓").endswith("100.0 MB  50.0 MB/s  update of a")
    view.on_event(transfer("b", 50_000_000))
    view.on_event(decided("a"))
    assert line_with(view, "↓").endswith("50.0 of 100.0 MB  50.0 MB/s  update of b")
    view.on_event(decided("b", Verdict.REFUSED))
    assert line_with(view, "↓", width=100).endswith("update of b  broke off")


def test_a_lost_broker_is_told_until_it_is_back(view: AggregatorView, clock: Clock) -> None:
    view.on_link(LinkChanged(name="writer", problem="no broker at amqp://x; trying again"))
    clock.now += 5
    assert "broker    for 0:05: no broker at amqp://x; trying again" in lines_of(view)
    view.on_link(LinkChanged(name="writer", problem=None))
    assert "broker" not in text_of(view)


def test_one_who_stands_by_says_so_and_shows_no_run_of_another(view: AggregatorView) -> None:
    view.on_event(moved(1))
    view.on_event(StandingBy(queue="updates"))
    assert lines_of(view)[0] == "state     standing by: another aggregator leads queue 'updates'"
    assert "round" not in text_of(view)


def test_the_end_and_a_stop_are_said_and_not_both(view: AggregatorView) -> None:
    assert view.doing() == "committing round 1"
    view.on_event(RunStopped(round=1))
    assert lines_of(view)[-1].endswith("stopped in round 1")
    assert not view.is_over
    view.on_event(RunEnded(reason="all 20 rounds are done"))
    assert lines_of(view)[-1].endswith("finished: all 20 rounds are done")
    assert view.is_over


def test_names_are_text_whatever_they_hold(view: AggregatorView) -> None:
    """A worker's own name cannot hold these; who forges a message may try."""
    name = "[red]x[/red]\x1b[2J\n\u202e"
    view.on_event(decided(name))
    view.on_event(moved(1))
    view.on_event(Transferring(what=f"update of {name}", is_upload=False, num_bytes=1, total_bytes=9))
    console = Console(width=120, force_terminal=True, record=True, file=io.StringIO())
    console.print(view)
    shown = console.export_text()
    assert "✓ [red]x[/red]\\x1b[2J\\n\\u202e" in shown
    assert not set(shown) & {"\x1b", "\u202e"}


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_thousand_workers_take_a_few_lines_at_any_width(view: AggregatorView, width: int) -> None:
    for index in range(1000):
        view.on_event(seen(f"hospital-of-a-long-name-{index}"))
        if index % 2:
            view.on_event(decided(f"hospital-of-a-long-name-{index}"))
    view.on_event(moved(500, target=1000, deadline_at=1060.0))
    view.on_event(closed(1, 0.5))
    lines = lines_of(view, width=width)
    assert len(lines) <= 14
    if width >= 40:
        assert any("1,000 present" in line for line in lines)
        assert any(line.endswith(" more") for line in lines)
        assert "✓" not in "\n".join(lines)


def test_a_worker_that_speaks_once_a_minute_is_present_in_between(view: AggregatorView, clock: Clock) -> None:
    view.on_event(moved(0))
    view.on_event(seen("slow", every_s=60.0))
    view.on_event(seen("usual"))
    clock.now += 59
    assert line_with(view, "workers").endswith("1 present")
    assert "▸ slow" in text_of(view)
    clock.now += 152
    assert "slow" not in text_of(view)


def test_a_worker_that_is_silent_or_leaves_is_not_present(view: AggregatorView, clock: Clock) -> None:
    view.on_event(moved(0))
    view.on_event(seen("a"))
    clock.now += 30
    view.on_event(seen("b"))
    view.on_event(seen("c"))
    clock.now += 30
    view.on_event(seen("c", "leaving"))
    assert line_with(view, "workers").endswith("1 present")
    assert "▸ b" in text_of(view)


def test_an_update_that_was_taken_out_is_counted_as_such(view: AggregatorView) -> None:
    view.on_event(RoundOpened(round=1, num_folded=2, answered=["anna", "ben"]))  # after a restart
    view.on_event(decided("cleo"))
    view.on_event(UpdateWithdrawn(round=1, worker="ben", num_samples=1, reason="is not on the roster"))
    view.on_event(moved(2))
    assert line_with(view, "updates  ").endswith("2 folded, 1 withdrawn")
    assert line_with(view, "workers  ").endswith("2 answered")
