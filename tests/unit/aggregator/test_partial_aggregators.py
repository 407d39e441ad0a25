"""Root and partial aggregators together: the same bits as without, whatever happens to a partial."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask
from unit.aggregator.sharded_run import (
    FLUSH_S,
    ShardedRun,
    delta_of,
    names_of,
    samples_of,
    some_state,
    workers_in,
)

from aggregator.presence.uploads import PartialUploads
from broker.transport import Delivery, Source
from broker.wire.buffers import cut
from broker.wire.codec import decode, encode
from broker.wire.messages import BlobRef, PartialHead
from broker.wire.topology import partial_key, shard_of

A, B = names_of(0, 3), names_of(1, 3)
EVERYBODY = [*A, *B]
ROUNDS = 3
Make = Callable[..., ShardedRun]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(**changes: Any) -> ShardedRun:
        return ShardedRun.make(tmp_path / "sharded", **({"quorum": "6", "rounds": ROUNDS} | changes)).start()

    return make


@pytest.fixture
def digest_without_shards(tmp_path: Path) -> Callable[..., str]:
    """The final digest when one aggregator folds everything itself."""

    def run(**changes: Any) -> str:
        fields = {"quorum": "6", "rounds": ROUNDS} | changes
        alone = EmbeddedRun.make(tmp_path / "alone", StateTask(some_state(0)), **fields).start()
        for number in range(1, ROUNDS + 1):
            for name in EVERYBODY:
                alone.send(name, delta_of(name, number), num_samples=samples_of(name))
            alone.settle()
        return str(alone.summary["final"]["model_sha256"])

    return run


def digest(run: ShardedRun) -> str:
    return str(run.root.summary["final"]["model_sha256"])


def folded(run: ShardedRun) -> list[tuple[int, str]]:
    """(base round, worker) of all updates in the mean."""
    rows = run.root.query("SELECT base_round, worker FROM updates WHERE verdict = 'folded' ORDER BY base_round, worker")
    return [(int(number), str(worker)) for number, worker in rows]


def each_once(names: list[str] = EVERYBODY, rounds: int = ROUNDS) -> list[tuple[int, str]]:
    return [(number, name) for number in range(1, rounds + 1) for name in sorted(names)]


# -- undisturbed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"weighting": "uniform"}, {"inline_cap": 0, "part_bytes": 64}, {"server_lr": 0.5, "min_updates": 6}],
    ids=["samples", "uniform", "blobs", "server_lr"],
)
def test_a_run_with_shards_ends_with_the_bits_of_one_without(
    make: Make, digest_without_shards: Callable[..., str], changes: dict[str, Any]
) -> None:
    run = make(**changes)
    blob_bytes = 64 if "inline_cap" in changes else None
    for _ in range(ROUNDS):
        run.answer(EVERYBODY, blob_bytes=blob_bytes)
        run.settle()
        run.pass_time()
    assert digest(run) == digest_without_shards(**changes)
    assert folded(run) == each_once()
    assert all(partial.is_finished for partial in run.partials)
    assert (run.waiting(), run.left_in_shards()) == ([], 0)
    assert [name for name in run.root.broker.blobs if ".model." not in name] == []


def test_one_shard_is_enough_and_seven_are_not_too_many(
    tmp_path: Path, digest_without_shards: Callable[..., str]
) -> None:
    for num_shards in (1, 7):
        run = ShardedRun.make(tmp_path / str(num_shards), num_shards=num_shards, quorum="6", rounds=ROUNDS).start()
        for _ in range(ROUNDS):
            run.answer(EVERYBODY)
            run.settle()
            run.pass_time()
        assert digest(run) == digest_without_shards()


def test_the_ledger_has_a_row_for_each_update_with_what_the_worker_said(make: Make) -> None:
    run = make()
    run.answer(EVERYBODY, train_metrics={"loss": 0.25}, train_s=2.5)
    run.settle()
    run.pass_time()
    rows = run.root.query(
        "SELECT worker, verdict, base_round, staleness, num_samples, weight, num_bytes, train_s, train_metrics"
        " FROM updates WHERE round = 1 ORDER BY worker"
    )
    without_header = run.root.update_head(A[0], delta_of(A[0], 1)).num_bytes
    assert all(row[6] > without_header for row in rows)
    assert [row[:6] + row[7:] for row in rows] == [
        (name, "folded", 1, 0, samples_of(name), float(samples_of(name)), 2.5, '{"loss": 0.25}')
        for name in sorted(EVERYBODY)
    ]
    assert run.root.closed("num_folded, num_samples") == [(6, sum(map(samples_of, EVERYBODY)))]


def test_the_first_sum_waits_until_nothing_comes_any_more_and_later_ones_for_those_that_answered_before(
    make: Make,
) -> None:
    run = make()
    run.answer(EVERYBODY)
    run.step_partials()
    assert run.waiting() == []
    run.root.clock.now += FLUSH_S / 2
    run.step_partials()
    assert run.waiting() == []
    run.root.clock.now += FLUSH_S / 2
    run.step_partials()
    assert [(sender, sorted(workers_in(body))) for sender, body in run.waiting()] == [
        (partial_key(0), sorted(A)),
        (partial_key(1), sorted(B)),
    ]
    run.settle()
    run.answer(A[:2])
    run.step_partials()
    assert run.waiting() == []
    run.answer(A[2:])
    run.step_partials()
    assert [sorted(workers_in(body)) for _, body in run.waiting()] == [sorted(A)]


def test_a_worker_that_stays_away_holds_its_shard_up_for_the_flush_time_once(make: Make) -> None:
    run = make(quorum="2")
    run.answer(A)
    run.pass_time()
    run.answer(A[:2])
    run.settle()
    assert run.root.round == 2
    run.pass_time()
    assert run.root.round == 3
    run.answer(A[:2])
    run.settle()
    assert run.root.aggregator.is_finished


def test_newcomers_are_summed_up_together(make: Make) -> None:
    run = make(quorum="6")
    run.answer([*A[:1], *B])
    run.pass_time()
    run.answer(A[1:])
    run.step_partials()
    assert run.waiting() == []
    run.root.clock.now += FLUSH_S
    run.step_partials()
    assert [sorted(workers_in(body)) for _, body in run.waiting()] == [sorted(A[1:])]


def test_a_window_full_of_updates_is_sent_at_once(make: Make) -> None:
    names = names_of(0, 260)
    run = make(quorum="260")
    run.answer(names)
    run.step_partials()
    assert [len(workers_in(body)) for _, body in run.waiting()] == [256]
    run.pass_time()
    assert folded(run) == each_once(names, 1)


# -- what a partial passes on ------------------------------------------------------------------------------------


def test_the_round_that_was_open_when_a_partial_began_is_passed_on_update_by_update(
    make: Make, digest_without_shards: Callable[..., str]
) -> None:
    run = make()
    for number in range(1, ROUNDS + 1):
        run.restart(0)
        run.answer(EVERYBODY)
        run.step_partials()
        if number == 2:
            assert [sender for sender, _ in run.waiting() if sender != partial_key(1)] == A
            assert [sender for sender, _ in run.waiting()].count(partial_key(1)) == 1
        run.settle()
        run.pass_time()
    assert digest(run) == digest_without_shards()
    assert folded(run) == each_once()


@pytest.mark.parametrize("num_acked", [0, 1, 3])
def test_killed_after_its_sum_was_sent_each_update_counts_once(
    make: Make, digest_without_shards: Callable[..., str], num_acked: int
) -> None:
    """Of the acks that should follow, none, some or all reach the broker."""
    run = make()
    run.answer(EVERYBODY)
    run.settle()
    run.pass_time()
    run.answer(EVERYBODY)
    partial = run.partials[0]
    ack = partial._transport.ack
    partial._transport.ack = lambda deliveries: ack(list(deliveries)[:num_acked])  # type: ignore[method-assign]
    run.step_partials()
    assert partial_key(0) in [sender for sender, _ in run.waiting()]
    run.restart(0)
    run.settle()
    run.answer(EVERYBODY)
    run.settle()
    run.pass_time()
    assert digest(run) == digest_without_shards()
    assert folded(run) == each_once()
    assert run.root.reasons == []


def test_killed_before_its_sum_was_sent_each_update_counts_once(
    make: Make, digest_without_shards: Callable[..., str]
) -> None:
    run = make(inline_cap=0, part_bytes=64)
    run.answer(EVERYBODY, blob_bytes=64)
    run.settle()
    run.pass_time()
    run.answer(EVERYBODY[:-1], blob_bytes=64)
    run.step_partials()
    run.restart(1)
    run.settle()
    run.answer(EVERYBODY[-1:], blob_bytes=64)
    run.settle()
    run.answer(EVERYBODY, blob_bytes=64)
    run.settle()
    run.pass_time()
    assert digest(run) == digest_without_shards()
    assert folded(run) == each_once()


@pytest.mark.parametrize(("of_the_root", "own"), [(0, 2**20), (2**20, 0)])
def test_a_partial_goes_by_the_inline_cap_of_the_root(tmp_path: Path, of_the_root: int, own: int) -> None:
    root = EmbeddedRun.make(tmp_path, StateTask(some_state(0)), shards=2, quorum="6", inline_cap=of_the_root)
    run = ShardedRun(root, [])
    run.partials = [run.partial(shard, inline_cap=own, part_bytes=64) for shard in range(2)]
    run.start()
    run.answer(EVERYBODY)
    run.step_partials()
    run.root.clock.now += FLUSH_S
    run.step_partials()
    sums = [decode(body, PartialHead)[0] for _, body in run.waiting()]
    assert [head.blob is not None for head in sums] == [of_the_root == 0] * 2


def test_a_late_update_is_passed_on_and_late(make: Make) -> None:
    run = make(quorum="5")
    late = run.root.update(A[0], delta_of(A[0], 1))
    run.answer(EVERYBODY[1:])
    run.pass_time()
    assert run.root.round == 2
    run.send_bytes(A[0], late)
    run.settle()
    assert run.root.verdicts("worker, verdict, base_round")[-1] == (A[0], "late", 1)
    assert run.left_in_shards() == 0


def test_a_sum_that_comes_when_its_round_is_closed_is_late_as_a_whole(make: Make) -> None:
    run = make(quorum="3", rounds=5, inline_cap=0, part_bytes=64)
    run.answer(EVERYBODY, blob_bytes=64)
    run.step_partials()
    run.root.clock.now += FLUSH_S
    run.step_partials()
    run.settle()
    assert run.root.round == 2
    assert run.root.verdicts("verdict, round")[3:] == [("late", 2)] * 3
    assert [name for name in run.root.broker.blobs if ".model." not in name] == []


@pytest.mark.parametrize("body", [b"garbage", b"", b"FMQ\x01" + bytes(60)])
def test_what_does_not_decode_is_passed_on_and_set_aside_by_the_root(make: Make, body: bytes) -> None:
    run = make()
    run.send_bytes(A[0], body)
    run.settle()
    assert len(run.root.reasons) == 1
    assert run.root.verdicts("worker, verdict") == [(A[0], "refused")]
    run.answer(EVERYBODY)
    run.pass_time()
    assert run.root.round == 2


def test_a_broken_update_costs_those_before_it_nothing(make: Make, digest_without_shards: Callable[..., str]) -> None:
    """Its blob turns out to be bad half way, when a part of it is in the sum already."""
    run = make(inline_cap=0, part_bytes=64)
    for _ in range(ROUNDS):
        bad = some_state(7)
        bad["n"][-1] += 1
        run.answer(A[:2], blob_bytes=64)
        run.settle()
        run.send(A[2], bad, blob_bytes=64, sha256="0" * 64)
        run.settle()
        run.answer([*A[2:], *B], blob_bytes=64, instance="fedcba9876543210")
        run.settle()
        run.pass_time()
    assert digest(run) == digest_without_shards(inline_cap=0)
    assert folded(run) == each_once()
    assert run.root.reasons == ["its body does not match its digest"] * ROUNDS


def test_an_update_with_nan_is_passed_on_and_refused(make: Make) -> None:
    run = make()
    bad = some_state(1)
    bad["w"][0, 0] = float("nan")
    run.send(A[0], bad)
    run.answer(EVERYBODY[1:])
    run.pass_time()
    assert run.root.reasons == ["tensor 'w' holds NaN or infinity"]
    assert run.root.num_folded == 5


def test_the_same_update_twice_counts_once_before_and_after_its_sum_was_sent(make: Make) -> None:
    run = make()
    run.answer(EVERYBODY)
    run.settle()
    run.answer(A)
    run.pass_time()
    assert folded(run) == each_once(EVERYBODY, 1)
    run.answer(A)
    run.settle()
    run.pass_time()
    run.answer(A)
    run.settle()
    assert run.root.num_folded == 3
    assert run.root.verdicts("verdict")[6:] == [("folded",)] * 3
    assert run.left_in_shards() == 0
    for partial in run.partials:
        assert partial._transport._unacked == {}  # type: ignore[attr-defined]


def test_what_came_back_again_and_again_is_passed_on_unread_and_its_worker_is_not_summed_up(make: Make) -> None:
    run = make(quorum="3")
    body = run.root.update(A[0], delta_of(A[0], 1), num_samples=samples_of(A[0]))
    run.partials[0]._take(Delivery(Source.UPDATES, body, A[0], num_returns=3))
    assert run.waiting() == [(A[0], body)]
    run.answer(A, instance="fedcba9876543210")
    run.pass_time()
    assert folded(run) == each_once(A, 1)
    assert run.root.reasons == []


def test_a_second_worker_of_a_name_is_a_duplicate_and_comes_after_the_sum_with_the_first(make: Make) -> None:
    run = make()
    run.answer(A)
    run.send(A[0], delta_of("other", 1), instance="fedcba9876543210")
    run.settle()
    assert run.root.num_folded == 3
    assert run.root.verdicts("worker, verdict") == [*((name, "folded") for name in run_order(run)), (A[0], "duplicate")]


def run_order(run: ShardedRun) -> list[str]:
    return [str(name) for (name,) in run.root.query("SELECT worker FROM updates WHERE verdict = 'folded' ORDER BY id")]


def test_an_update_that_overtakes_the_model_it_is_of_waits_for_it(make: Make) -> None:
    run = make(quorum="3")
    early = run.root.update(B[0], delta_of(B[0], 2), round=2)
    run.send_bytes(B[0], early)
    run.step_partials()
    assert run.waiting() == []
    run.answer(A)
    run.root.clock.now += FLUSH_S / 2
    run.settle()
    run.root.clock.now += FLUSH_S / 2 - 0.01
    run.partials[0].step(0)
    run.partials[0]._send(run.partials[0]._round)
    run.root.settle()
    assert run.root.round == 2
    run.settle()
    run.pass_time()
    assert run.root.num_folded == 1
    assert run.root.reasons == []


def test_an_update_for_a_model_that_never_comes_is_passed_on_and_refused(make: Make) -> None:
    run = make()
    run.send(A[0], delta_of(A[0], 9), round=9)
    run.settle()
    assert run.root.reasons == []
    run.pass_time()
    assert run.root.reasons == ["update for round 9, which is not open; the open one is 1"]
    run.answer(EVERYBODY)
    run.pass_time()
    assert run.root.round == 2


def test_one_that_was_passed_on_early_is_not_summed_up_again_when_it_comes_twice(make: Make) -> None:
    run = make(quorum="3", rounds=4)
    early = run.root.update(B[0], delta_of(B[0], 2), round=2)
    run.send_bytes(B[0], early)
    run.step_partials()
    run.root.clock.now += FLUSH_S
    run.partials[1].step(0)
    ((sender, passed_on),) = run.intercept()
    assert sender == B[0]
    run.answer(A)
    run.pass_time()
    assert run.root.round == 2
    run.root.site.send(passed_on, worker=B[0])
    run.send_bytes(B[0], early)
    run.answer(B[1:])
    run.settle()
    run.pass_time()
    assert folded(run)[3:] == [(2, name) for name in sorted(B)]
    assert run.root.reasons == []


def test_when_the_workers_are_asked_again_their_updates_are_passed_on_one_by_one(make: Make) -> None:
    """The root's state is gone, and with it what it had folded; what was sent to it may still be on its queue."""
    run = make()
    run.answer(EVERYBODY)
    run.settle()
    run.pass_time()
    run.answer(EVERYBODY[:-1])
    run.settle()
    run.pass_time()
    assert run.root.num_folded == 5
    folder = run.root.folder.with_name("empty")
    run.root.aggregator.close()
    changes = run.root.settings.model_dump(exclude={"broker", "state"}) | {"take_over": True}
    run.root = EmbeddedRun.make(folder, run.root.task, broker=run.root.broker, clock=run.root.clock, **changes).start()
    run.settle()
    assert (run.root.round, run.root.num_folded) == (2, 5)  # the sums had not been acked
    run.answer(EVERYBODY)
    run.step_partials()
    assert {sender for sender, _ in run.waiting()} == set(EVERYBODY)
    run.settle()
    assert run.root.round == 3
    assert folded(run) == [(2, name) for name in sorted(EVERYBODY)]
    assert run.root.reasons == []


def test_a_root_with_another_number_of_shards_gets_updates_one_by_one(tmp_path: Path) -> None:
    run = ShardedRun.make(tmp_path, num_shards=3, quorum="6")
    run.partials = [run.partial(shard, shard=f"{shard}/4") for shard in range(3)]
    run.start()
    run.answer(EVERYBODY)
    run.settle()
    assert run.root.round == 2
    assert folded(run) == each_once(EVERYBODY, 1)


def test_a_partial_takes_no_notice_of_other_runs(tmp_path: Path) -> None:
    run = ShardedRun.make(tmp_path, quorum="6")
    waiting = run.partial(0, run="another")
    waiting.start()
    run.start()
    run.answer(EVERYBODY)
    for _ in range(10):
        waiting.step(0)
    assert run.waiting() == []
    assert not waiting.is_finished


# -- the root ----------------------------------------------------------------------------------------------------


def sent_sum(run: ShardedRun, names: list[str], shard: int = 0) -> bytes:
    """The message that a partial sends for these."""
    run.answer(names)
    run.step_partials()
    run.root.clock.now += FLUSH_S
    run.step_partials()
    ((sender, body),) = run.intercept()
    assert sender == partial_key(shard)
    return body


def test_a_partial_sum_delivered_twice_counts_once(make: Make) -> None:
    run = make()
    body = sent_sum(run, A)
    for _ in range(3):
        run.root.site.send_partial(body, shard=0)
        run.settle()
    assert run.root.num_folded == 3
    assert run.root.verdicts("worker, verdict") == [(name, "folded") for name in workers_in(body)]
    assert run.root.reasons == []


def test_a_partial_sum_that_was_committed_is_known_after_a_restart(make: Make) -> None:
    run = make()
    body = sent_sum(run, A)
    run.root.site.send_partial(body, shard=0)
    run.settle()
    run.root.verdicts()
    run.root = run.root.crash().start()
    run.root.site.send_partial(body, shard=0)
    run.settle()
    assert run.root.num_folded == 3
    run.answer(B)
    run.settle()
    run.pass_time()
    assert folded(run) == each_once(EVERYBODY, 1)


def test_a_partial_sum_that_was_not_committed_comes_again_after_a_restart(make: Make) -> None:
    run = make()
    run.answer(A)
    run.pass_time()
    assert run.root.num_folded == 3
    run.root = run.root.crash().start()
    run.settle()
    assert run.root.num_folded == 3


def test_a_sum_with_an_update_that_is_in_already_is_set_aside_whole(make: Make) -> None:
    run = make()
    body = sent_sum(run, A)
    run.root.send(A[1], delta_of("another", 1))
    run.root.site.send_partial(body, shard=0)
    run.settle()
    assert run.root.num_folded == 1
    assert run.root.reasons == [f"of its 3 updates those of {A[1]} are in already"]
    assert run.root.verdicts("worker, verdict") == [(A[1], "folded"), (partial_key(0), "refused")]


def altered(body: bytes, payload_changes: Callable[[bytearray], None] = lambda payload: None, **changes: Any) -> bytes:
    head, payload = decode(body, PartialHead)
    changed = bytearray(payload)
    payload_changes(changed)
    return encode(head.model_copy(update=changes), bytes(changed))


def cut_off(payload: bytearray) -> None:
    del payload[-4:]


def flipped(payload: bytearray) -> None:
    payload[-1] ^= 1


def test_a_bad_partial_sum_is_set_aside_with_its_reason_and_changes_nothing(make: Make) -> None:
    run = make()
    body = sent_sum(run, A)
    head, _ = decode(body, PartialHead)
    bad = {
        altered(body, flipped): "its body does not match its digest",
        altered(body, sha256="0" * 64): "its body does not match its digest",
        altered(body, cut_off): "its tensors need",
        altered(body, round=2): "partial sum for round 2, which is not open; the open one is 1",
        altered(body, round=0): "partial sum for round 0, which is not open",
        altered(body, run_id="other.1"): "partial sum of run other.1; this is run",
        altered(body, tensors=head.tensors[1:]): "has no tensor",
        altered(body, bound=1e-9): "is larger than its bound of 1e-09 allows",
        altered(body, bound=2.0**30): "the sum over a round must stay below",
        altered(body, bound=-1.0): "PartialHead bound",
        altered(body, bound=float("nan")): "PartialHead bound",
        altered(body, updates=()): "PartialHead updates",
        altered(body, updates=(*head.updates, head.updates[0])): "a worker is in it twice",
        altered(body, shard=1): f"{head.updates[0].worker} does not belong to shard 1 of 2",
        altered(body, num_shards=1): "claims to be of shard 0",
        altered(
            body, updates=(head.updates[0].model_copy(update={"num_samples": 0}),)
        ): "PartialHead updates.0.num_samples",
        altered(
            body, updates=(head.updates[0].model_copy(update={"num_samples": -5}),)
        ): "PartialHead updates.0.num_samples",
        altered(body, blob=BlobRef(name="q.blob.x", part_bytes=8)): "it has a body of its own and also names a blob",
        encode(head.model_copy(update={"blob": BlobRef(name="q.blob.x", part_bytes=8)})): "a blob that is not its own",
        b"garbage": "not a fedmq message",
        run.root.update(A[0], delta_of(A[0], 1)): "PartialHead",
    }
    for message, reason in bad.items():
        shard = 1 if "claims to be of shard" in reason else 0
        run.root.site.send_partial(message, shard=shard)
        run.settle()
        assert reason in run.root.reasons[-1]
        assert run.root.num_folded == 0
    assert len(run.root.reasons) == len(bad)
    run.root.site.send_partial(body, shard=0)
    run.answer(B)
    run.settle()
    run.pass_time()
    assert folded(run) == each_once(EVERYBODY, 1)


def test_a_sum_that_turns_out_to_be_bad_half_way_costs_those_before_it_nothing(
    make: Make, digest_without_shards: Callable[..., str]
) -> None:
    run = make(inline_cap=0, part_bytes=64)
    for _ in range(ROUNDS):
        run.answer(A, blob_bytes=64)
        run.settle()
        run.pass_time()
        head = bad_head(run, names_of(1, 5)[3:])
        assert head.blob is not None
        run.root.site.write_blob(head.blob.name, cut([b"\x01" + bytes(head.num_bytes - 1)], 64))
        run.root.site.send_partial(encode(head), shard=1)
        run.settle()
        run.answer(B, blob_bytes=64)
        run.settle()
        run.pass_time()
    assert digest(run) == digest_without_shards(inline_cap=0)
    assert folded(run) == each_once()
    assert run.root.reasons == ["its body does not match its digest"] * ROUNDS
    assert [name for name in run.root.broker.blobs if ".model." not in name] == []


def test_a_forged_partial_sum_in_a_run_without_shards_is_refused_and_meets_no_quorum(tmp_path: Path) -> None:
    root = EmbeddedRun.make(tmp_path, StateTask(some_state(0)), quorum="2").start()
    head = bad_head(ShardedRun(root, []), names_of(1, 2)).model_copy(update={"blob": None})
    root.site.send_partial(encode(head, bytes(head.num_bytes)), shard=1)
    root.settle()
    assert root.reasons == ["partial sum of shard 1, but this run has no shards"]
    assert (root.round, root.num_folded) == (1, 0)


def test_a_partial_sum_of_another_number_of_shards_is_refused(make: Make) -> None:
    run = make()
    head = bad_head(run, names_of(1, 1)).model_copy(update={"shard": 0, "num_shards": 1, "blob": None})
    run.root.site.send_partial(encode(head, bytes(head.num_bytes)), shard=0)
    run.settle()
    assert run.root.reasons == ["partial sum of shard 0 of 1; this run has 2 shards"]


def bad_head(run: ShardedRun, names: list[str]) -> PartialHead:
    number = run.root.round
    run_id = run.root.head.run_id
    updates = [
        {"worker": name, "instance": "0123456789abcdef", "num_samples": 1, "num_bytes": 1, "train_s": 0, "sent_at": 0}
        for name in names
    ]
    return PartialHead.model_validate(
        {
            "tensors": run.root.aggregator._run.expected.encoding.folded,
            "sha256": "0" * 64,
            "run_id": run_id,
            "round": number,
            "shard": 1,
            "num_shards": 2,
            "sequence": 7,
            "bound": 1.0,
            "updates": updates,
            "blob": {"name": run.root.topology.partial_blob(1, run_id, number, 7), "part_bytes": 64},
        }
    )


def test_the_blob_of_a_sum_that_was_never_sent_is_gone_when_the_round_is_closed(make: Make) -> None:
    """As a partial leaves it that is killed while it uploads."""
    run = make(inline_cap=0, part_bytes=64)
    run.answer(EVERYBODY[:-1], blob_bytes=64)
    run.pass_time()
    half = run.root.topology.partial_blob(1, run.root.head.run_id, 1, 1)
    run.root.site.write_blob(half, [b"half"])
    run.restart(1)
    run.answer(EVERYBODY[-1:], blob_bytes=64)
    run.settle()
    assert run.root.round == 2
    assert [name for name in run.root.broker.blobs if ".model." not in name] == []


def test_the_sum_stays_exact_where_its_high_limbs_leave_the_range_of_a_float(tmp_path: Path) -> None:
    """From 2**53 steps on, a float rounds; two sums that are equal must round alike."""
    found = set()
    values = np.random.default_rng(0)
    deltas = [{"w": torch.from_numpy(values.standard_normal(2000)) * 2.0**21} for _ in range(8)]
    for num_shards in (0, 1, 3):
        task = StateTask({"w": torch.zeros(2000, dtype=torch.float64)})
        root = EmbeddedRun.make(tmp_path / str(num_shards), task, shards=num_shards, rounds=1, quorum="8")
        run = ShardedRun(root, [])
        run.partials = [run.partial(shard) for shard in range(num_shards)]
        run.start()
        for number, delta in enumerate(deltas):
            run.send(f"site-{number}", delta, num_samples=3 + number)
        run.settle()
        run.pass_time()
        found.add(digest(run))
    assert len(found) == 1


def test_an_update_that_came_to_another_shard_than_its_own_is_left_to_the_root(make: Make) -> None:
    run = make()
    stray = next(name for name in EVERYBODY if shard_of(name, 2) == 1)
    body = run.root.update(stray, delta_of(stray, run.root.round), num_samples=samples_of(stray))
    run.root.broker.shards[0].append((stray, body))
    run.step_partials()
    assert run.waiting() == [(stray, body)]


def test_a_number_that_no_partial_counts_to_is_not_believed() -> None:
    uploads = PartialUploads(3, num_shards=1, num_before=5)
    uploads.arrived(0, 3, 2)
    uploads.arrived(0, 3, 2**40)
    assert len(uploads.unknown()) < 100


def test_a_body_that_does_not_come_holds_up_no_other_of_its_shard_and_the_root_judges_it(make: Make) -> None:
    run = make(quorum="5", inline_cap=0, part_bytes=64)
    body = run.root.update(A[0], delta_of(A[0], 1), blob_bytes=64)
    name = run.root.topology.update_blob(A[0], run.root.head.run_id, 1)
    run.root.broker.blobs[name] = run.root.broker.blobs[name][:1]
    run.send_bytes(A[0], body)
    run.answer(EVERYBODY[1:], blob_bytes=64)
    run.settle()
    run.pass_time()
    assert run.root.round == 2
    run.settle()
    run.root.settle()  # with the model of the next round, its partial passed it on
    assert sorted(worker for worker, verdict in run.root.verdicts() if verdict == "folded") == sorted(EVERYBODY[1:])
    assert run.root.verdicts("worker, verdict")[-1] == (A[0], "late")
    assert run.left_in_shards() == 0


def test_an_update_that_repeats_one_of_a_sum_on_its_way_waits_for_that_sum(make: Make) -> None:
    """Or the sum would be refused as a whole, and the others in it with it."""
    run = make(quorum="6", inline_cap=0, part_bytes=64)
    run.answer(A, blob_bytes=64)
    run.step_partials()
    run.root.clock.now += FLUSH_S
    run.step_partials()
    (_, body) = run.waiting()[0]
    head = decode(body, PartialHead)[0]
    assert head.blob is not None
    parts = run.root.broker.blobs[head.blob.name]
    run.root.broker.blobs[head.blob.name] = parts[:1]
    again = run.root.update(A[0], delta_of(A[0], 1), num_samples=samples_of(A[0]), instance="ffffffffffffffff")
    run.root.site.send(again, worker=A[0])
    run.root.settle()
    assert run.root.num_folded == 0
    run.root.broker.blobs[head.blob.name] = parts
    run.root.settle()
    assert run.root.num_folded == len(A)
    assert run.root.reasons == []
    assert run.root.verdicts("worker, verdict")[-1] == (A[0], "duplicate")
