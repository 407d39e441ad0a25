"""What the person of a partial aggregator sees."""

from pathlib import Path

from unit.aggregator.sharded_run import ShardedRun, names_of
from unit.rendered import lines_of, text_of

from aggregator.events import ShardLed, StandingBy
from aggregator.watchers.partial_view import PartialView
from console.watching import LinkChanged

NAMES = names_of(0, 3, num_shards=1)


def test_a_shard_is_seen_from_standing_by_to_the_end_of_the_run(tmp_path: Path) -> None:
    run = ShardedRun.make(tmp_path, num_shards=1, quorum="3", rounds=1)
    view = PartialView("0/1", queue="updates")
    view.on_event(StandingBy(queue="updates"))
    assert "standing by: another aggregator leads this shard" in text_of(view)
    run.partials = [run.partial(0, on_event=view.on_event)]
    view.on_event(ShardLed(shard=0, num_shards=1, queue="updates"))
    assert "waiting for a model" in text_of(view)
    assert (view.place(), view.is_over) == ("", False)

    run.start()
    run.answer(NAMES[:2])
    run.step_partials()
    assert "round 1   2 updates in a sum" in lines_of(view)
    assert view.place() == "in round 1"
    run.answer(NAMES[2:])
    run.pass_time()
    assert "sent      1 sums; 0 updates passed on as they came" in lines_of(view)
    assert view.is_over


def test_a_lost_broker_and_a_ctrl_c_are_seen() -> None:
    view = PartialView("0/1", queue="updates", clock=lambda: 5.0)
    view.on_link(LinkChanged(name="writer", problem="no broker; trying again"))
    view.finishing()
    assert "broker    for 0:00: no broker; trying again" in lines_of(view)
    assert lines_of(view)[-1].endswith("finishing; Ctrl-C again stops at once")
