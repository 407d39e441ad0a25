"""What one site, or somebody without a key, can do to the other workers of a run with shards."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.aggregator.embedded_run import payload_of
from unit.aggregator.sharded_run import ShardedRun, delta_of, names_of

from aggregator.senders.quota import MOST_OF_ONE
from broker.wire.codec import encode
from identities import Membership
from identities.in_memory import in_memory

A, B = names_of(0, 3), names_of(1, 3)
OTHER_INSTANCE = "fedcba9876543210"
Make = Callable[..., ShardedRun]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(**changes: Any) -> ShardedRun:
        return ShardedRun.make(tmp_path / "sharded", **({"quorum": "6", "rounds": 3} | changes)).start()

    return make


def folded(run: ShardedRun, round_number: int) -> list[str]:
    rows = run.root.verdicts("worker, verdict, round")
    return sorted(worker for worker, verdict, number in rows if (verdict, number) == ("folded", round_number))


def test_who_sends_its_update_by_itself_too_costs_its_shard_one_sum_and_no_second_one(make: Make) -> None:
    run = make(quorum="5", deadline_s=60)
    attacker = A[0]
    for _ in range(2):
        run.root.send(attacker, delta_of(attacker, run.root.round))
        run.settle()
        run.answer([*A, *B])
        run.pass_time()
        run.pass_time(60)
    assert folded(run, 2) == sorted([*A, *B])
    assert "came by itself" in run.root.reasons[-1]


def test_a_flood_of_updates_of_a_model_that_is_not_out_yet_holds_nobody_up(make: Make) -> None:
    run = make(rounds=9)
    run.answer([*A, *B])
    run.pass_time()
    early = run.root.update(A[0], delta_of(A[0], 9), round=9)
    for _ in range(200):
        run.send_bytes(A[0], early)
    run.step_partials()
    run.answer(A[1:])
    run.step_partials()
    assert run.left_in_shards() == 0
    run.root.clock.now += 1
    run.step_partials()
    passed_on = [sender for sender, _ in run.waiting() if sender == A[0]]
    assert len(passed_on) == MOST_OF_ONE


@pytest.mark.parametrize(
    "changes",
    [lambda number: {"round": 1}, lambda number: {"instance": f"{number:016x}"}],
    ids=["for an earlier round", "of many instances"],
)
def test_a_flood_of_fitting_updates_is_passed_on_up_to_the_quota(
    make: Make, changes: Callable[[int], dict[str, Any]]
) -> None:
    run = make()
    run.answer([*A, *B])
    run.pass_time()
    for number in range(100):
        run.send_bytes(A[0], run.root.update(A[0], delta_of(A[0], 2), **changes(number)))
    run.step_partials()
    assert [sender for sender, _ in run.waiting()].count(A[0]) <= MOST_OF_ONE
    assert run.left_in_shards() == 0


def test_forged_messages_at_a_partial_do_not_silence_whom_they_name(make: Make) -> None:
    run = make()
    partial = run.partials[0]
    known = in_memory(A, partials=["shard-0"])
    trust = known.trust("shard-0")
    current = partial._round
    assert current is not None
    current.expected = replace(current.expected, membership=Membership(trust))
    for _ in range(2 * MOST_OF_ONE):
        run.send_bytes(A[0], run.root.update(A[0], delta_of(A[0], 1)))
    run.step_partials()
    head = run.root.update_head(A[0], delta_of(A[0], 1), model_sha256=run.root.head.sha256)
    run.send_bytes(A[0], encode(head, payload_of(delta_of(A[0], 1)), trust=known.trust(A[0])))
    run.step_partials()
    assert [update.worker for update in current.pending.updates] == [A[0]]
