"""What a partial aggregator's watchers are told, and its own metrics: none of the root's."""

from pathlib import Path

import torch
from unit.aggregator.sharded_run import ShardedRun, delta_of, names_of

from aggregator.events import PartialEvent, ShardFinished, ShardLed, ShardRoundOpened, StandingBy, SumSent, UpdateSummed
from aggregator.watchers.partial_metrics import PartialMetrics
from console.watching import fan_out

NAMES = names_of(0, 3, num_shards=1)


def watched(tmp_path: Path, metrics: PartialMetrics, events: list[PartialEvent]) -> ShardedRun:
    run = ShardedRun.make(tmp_path, num_shards=1, quorum="3", rounds=2)
    run.partials = [run.partial(0, on_event=fan_out(metrics.on_event, events.append))]
    return run.start()


def test_a_shard_is_told_from_its_lead_to_the_end_of_the_run(tmp_path: Path) -> None:
    events: list[PartialEvent] = []
    run = watched(tmp_path, PartialMetrics(), events)
    for _ in range(2):
        run.answer(NAMES)
        run.pass_time()
    kinds = [ShardLed, ShardRoundOpened, SumSent, ShardRoundOpened, SumSent, ShardFinished]
    assert [type(event) for event in events if type(event) in kinds] == kinds
    assert [event.num_updates for event in events if isinstance(event, SumSent)] == [3, 3]
    assert [event.worker for event in events if isinstance(event, UpdateSummed) and event.round == 1]
    run.root.aggregator.close()


def test_a_partial_says_itself_whether_it_leads_and_what_it_sums(tmp_path: Path) -> None:
    metrics = PartialMetrics()
    value = metrics.registry.get_sample_value
    metrics.on_event(StandingBy(queue="updates"))
    assert value("fedmq_leads") == 0
    run = watched(tmp_path, metrics, [])
    assert value("fedmq_leads") == 1
    run.answer(NAMES)
    run.pass_time()
    assert value("fedmq_partial_sums_total") == 1
    assert value("fedmq_partial_updates_total") == 3
    assert (value("fedmq_round"), value("fedmq_partial_round_updates")) == (2, 0)
    assert value("fedmq_updates_total", {"verdict": "folded"}) is None  # that is the root's
    run.root.aggregator.close()


def test_updates_that_are_passed_on_or_come_again_are_not_counted_as_summed(tmp_path: Path) -> None:
    metrics = PartialMetrics()
    value = metrics.registry.get_sample_value
    run = watched(tmp_path, metrics, [])
    broken = delta_of(NAMES[1], 1) | {"w": torch.full((5, 7), float("nan"))}
    run.send(NAMES[0], delta_of(NAMES[0], 1))
    run.send(NAMES[1], broken, blob_bytes=64)
    run.step_partials()
    assert value("fedmq_partial_passed_on_total") == 1
    assert value("fedmq_partial_round_updates") == 1
    run.root.aggregator.close()
