"""How far one update may go: its weight, its share of the sum's range, and where it may take the model."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from aggregator.senders.guard import MOST_OF_ONE_UPDATE, Guard
from aggregator.settings import AggregatorSettings
from aggregator.weighing import Weigher, Weight, WeightLimits
from broker.states.tensors import State
from broker.wire.limbs import MAX_SUM
from broker.wire.messages import MAX_NUM_SAMPLES, Folded
from broker.wire.specs import TensorSpec
from console import UnfitMessage

ZERO = state_of(w=0.0)


def halves(*values: float) -> State:
    return {"w": torch.tensor(values, dtype=torch.float16)}


# -- weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "median", "most"),
    [
        (WeightLimits(), 10, None),
        (WeightLimits(max_samples=5), None, 5),
        (WeightLimits(max_weight=2.0), None, None),
        (WeightLimits(max_weight=2.5), 7, 17),
        (WeightLimits(max_weight=1.0), 7, 7),
        (WeightLimits(max_samples=5, max_weight=2.0), 7, 5),
        (WeightLimits(max_samples=50, max_weight=2.0), 7, 14),
    ],
)
def test_what_counts_of_an_update_s_samples(limits: WeightLimits, median: int | None, most: int | None) -> None:
    assert limits.most_samples(median) == most


@given(st.integers(1, MAX_NUM_SAMPLES), st.integers(1, MAX_NUM_SAMPLES))
def test_an_update_never_weighs_more_than_its_samples_nor_than_the_limit(num_samples: int, most: int) -> None:
    claim = Folded(worker="a", instance="0" * 16, num_samples=num_samples, num_bytes=8, train_s=0.1, sent_at=1.0)
    counted = float(min(num_samples, most))
    assert replace(Weigher(), most_samples=most).weigh(claim) == Weight(counted, counted)
    assert replace(Weigher.parse("uniform"), most_samples=most).weigh(claim) == Weight(1.0, 1.0)


def test_samples_above_the_limit_do_not_count_and_the_ledger_tells_both(begin: Begin) -> None:
    run = begin(StateTask(ZERO), max_samples=30, rounds=9)
    run.send("a", state_of(w=1.0), num_samples=10)
    run.send("greedy", state_of(w=5.0), num_samples=MAX_NUM_SAMPLES)
    run.settle()
    assert run.model["w"].item() == (10 * 1.0 + 30 * 5.0) / 40
    assert sorted(run.verdicts("worker, num_samples, weight")) == [("a", 10, 10.0), ("greedy", MAX_NUM_SAMPLES, 30.0)]
    assert run.closed("num_samples") == [(40,)]


def test_a_weight_is_limited_by_the_median_of_the_round_before(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="3", max_weight=2.0, rounds=9)
    for name, num_samples in (("a", 10), ("b", 20), ("greedy", 1_000_000)):
        run.send(name, state_of(w=0.0), num_samples=num_samples)
    run.settle()
    assert run.round == 2
    for name, num_samples in (("a", 10), ("b", 20), ("greedy", 1_000_000)):
        run.send(name, state_of(w=1.0 if name == "greedy" else 0.0), num_samples=num_samples)
    run.settle()
    assert run.model["w"].item() == 40 / 70
    assert run.query("SELECT weight FROM updates WHERE round = 2 ORDER BY worker") == [(10.0,), (20.0,), (40.0,)]


def test_the_order_in_which_updates_come_and_a_restart_change_no_bit_of_a_limited_mean(begin: Begin) -> None:
    updates = [("a", 0.1, 10), ("b", 0.7, 25), ("greedy", 3.3, 12345)]
    digests = set()
    for index, order in enumerate(itertools.permutations(updates)):
        run = begin(StateTask(ZERO), folder=f"run-{index}", quorum="3", max_weight=1.5, max_samples=5000, rounds=2)
        digests.add(in_this_order(run, order))
    assert len(digests) == 1


def in_this_order(run: EmbeddedRun, order: Any) -> str:
    for number, (name, value, num_samples) in enumerate((*order, *order)):
        run.send(name, state_of(w=value), num_samples=num_samples)
        run.settle()
        if number == 3:
            run.aggregator.finish()
            run = run.crash().start()
    assert run.aggregator.is_finished
    run.aggregator.close()
    return run.head.sha256


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_samples": 5, "weighting": "uniform"}, "by which --weighting uniform does not weigh"),
        ({"max_weight": 2.0, "shards": 2}, "leave --shards out"),
        ({"max_weight": 0.5}, "greater than or equal to 1"),
    ],
)
def test_limits_that_cannot_be_held_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AggregatorSettings(**settings)


# -- the range of the sum -------------------------------------------------------------------------------------


def test_one_update_cannot_use_up_the_range_that_all_share(begin: Begin) -> None:
    """It is refused itself; before, the honest ones after it were."""
    run = begin(StateTask(ZERO))
    run.fold_all([("greedy", state_of(w=MAX_SUM - 1)), ("a", state_of(w=1.0)), ("b", state_of(w=2.0))])
    assert run.reasons == [
        "num_samples times delta reaches 1.07e+09; a single update must stay below 1.34e+08,"
        " so that there is room for the others"
    ]
    assert run.model["w"].item() == 1.5


def test_an_update_just_below_its_share_is_folded(begin: Begin) -> None:
    run = begin(StateTask(ZERO), quorum="1")
    run.fold_all([("a", state_of(w=MOST_OF_ONE_UPDATE - 1))])
    assert run.model["w"].item() == MOST_OF_ONE_UPDATE - 1


# -- the range of the model -----------------------------------------------------------------------------------


def test_a_piece_is_checked_against_the_part_of_the_model_that_it_moves() -> None:
    specs = (TensorSpec("d", "float64", (1,)), TensorSpec("h", "float16", (6,)))
    model = torch.tensor([0, 0, 0, 0, 60_000, 0], dtype=torch.float16).numpy()
    guard = Guard(specs, halves={"h": model})
    delta = torch.full((6,), 10_000, dtype=torch.float16).numpy().tobytes()
    guard.check(0, bytes(8) + delta[:8])
    with pytest.raises(UnfitMessage, match="takes tensor 'h' to 7e\\+04, out of the range of float16"):
        guard.check(16, delta[8:])


def test_two_updates_of_65504_do_not_end_a_float16_run(begin: Begin) -> None:
    """The second is refused, since it would take the model out of its range; others go on from where it is."""
    run = begin(StateTask(halves(0.0, 0.0)), quorum="1", rounds=3)
    run.fold_all([("bad", halves(65504.0, 0.0))])
    assert run.round == 2
    run.fold_all([("bad", halves(65504.0, 0.0))])
    assert run.round == 2
    assert run.reasons == ["it takes tensor 'w' to 1.31e+05, out of the range of float16 (65504)"]
    for _ in range(2):
        run.fold_all([("a", halves(-1000.0, 1.0))])
    assert run.aggregator.is_finished
    assert run.model["w"].tolist() == [63488.0, 2.0]  # nearest to 63504, which lies between two float16


@given(
    st.lists(st.tuples(st.floats(-65504, 65504, width=16), st.integers(1, 1000)), min_size=1, max_size=6),
    st.floats(-65504, 65504, width=16),
)
def test_the_mean_of_updates_that_stay_in_range_stays_in_range(updates: list[tuple[float, int]], model: float) -> None:
    start = torch.tensor([model], dtype=torch.float16)
    guard = Guard((TensorSpec("w", "float16", (1,)),), halves={"w": start.numpy()})
    admitted = []
    for value, weight in updates:
        delta = torch.tensor([value], dtype=torch.float16)
        try:
            guard.check(0, delta.numpy().tobytes())
        except UnfitMessage:
            continue
        admitted.append((float(delta), weight))
    if admitted:
        mean = sum(value * weight for value, weight in admitted) / sum(weight for _, weight in admitted)
        assert torch.isfinite(torch.tensor(float(start) + mean, dtype=torch.float64).to(torch.float16))


def test_a_mean_that_leaves_the_range_all_the_same_costs_the_round_and_names_the_largest_update(begin: Begin) -> None:
    """With a server learning rate above 1, updates that are each in range may together leave it."""
    run = begin(StateTask(halves(40_000.0)), server_lr=2.0, rounds=3)
    run.fold_all([("a", halves(10_000.0)), ("b", halves(20_000.0))])
    assert run.round == 2
    assert run.model["w"].tolist() == [40_000.0]
    reason = (
        "the mean leaves the range of tensor 'w'; lower --server-lr or --lr;"
        " the largest update was that of 'b', with num_samples times delta up to 2e+04"
    )
    assert run.closed("closed_by, num_folded") == [("abandoned", 0)]
    assert run.verdicts("worker, verdict, reason") == [("a", "abandoned", reason), ("b", "abandoned", reason)]
    run.fold_all([("a", halves(10.0)), ("b", halves(20.0))])
    assert run.model["w"].tolist() == [40_032.0]


def test_a_round_abandoned_for_its_range_stays_so_after_a_restart(begin: Begin) -> None:
    run = begin(StateTask(halves(40_000.0)), server_lr=2.0, quorum="1", rounds=3)
    run.fold_all([("a", halves(20_000.0))])
    again = run.crash().start()
    assert again.round == 2
    again.fold_all([("a", halves(0.0))])
    assert again.round == 3
    again.aggregator.close()
