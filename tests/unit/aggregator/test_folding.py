"""What counts, how often and how much: duplicates, late and stale updates, weights, rounds that close otherwise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from broker.wire.codec import encode
from broker.wire.messages import Presence

ZERO = StateTask(state_of(w=[0.0, 0.0]))
ONE, TWO = state_of(w=[1.0, 0.5]), state_of(w=[2.0, -0.5])


def values(run: EmbeddedRun) -> list[float]:
    return list(run.model["w"].tolist())


def test_a_round_closes_on_its_quorum_and_the_next_model_is_the_mean(begin: Begin) -> None:
    run = begin(ZERO)
    run.fold_all([("a", ONE)])
    assert run.round == 1
    run.fold_all([("b", TWO)])
    assert run.round == 2
    assert values(run) == [1.5, 0.0]
    assert run.closed("round, closed_by, num_folded") == [(1, "quorum", 2)]


def test_updates_weigh_as_many_samples_as_they_have(begin: Begin) -> None:
    run = begin(ZERO)
    run.send("a", ONE, num_samples=3)
    run.send("b", TWO, num_samples=1)
    run.settle()
    assert values(run) == [1.25, 0.25]
    assert run.closed("num_samples") == [(4,)]


def test_a_compiled_fold_changes_no_bit(begin: Begin) -> None:
    third, seventh = state_of(w=[1 / 3, -1 / 3]), state_of(w=[1 / 7, 1e-9])
    digests = set()
    for compiled_fold in (False, True):
        run = begin(ZERO, compiled_fold=compiled_fold, folder=f"run-{compiled_fold}")
        run.send("a", third, num_samples=3)
        run.send("b", seventh, num_samples=1234)
        run.settle()
        digests |= set(run.closed("model_sha256"))
    assert len(digests) == 1


def test_with_uniform_weighting_samples_do_not_count(begin: Begin) -> None:
    run = begin(ZERO, weighting="uniform")
    run.send("a", ONE, num_samples=300)
    run.send("b", TWO, num_samples=1)
    run.settle()
    assert values(run) == [1.5, 0.0]


def test_the_server_learning_rate_scales_the_step(begin: Begin) -> None:
    run = begin(ZERO, server_lr=0.5)
    run.fold_all([("a", ONE), ("b", TWO)])
    assert values(run) == [0.75, 0.0]


@pytest.mark.parametrize("instance", ["0123456789abcdef", "ffffffff"])
@pytest.mark.parametrize("is_committed", [False, True])
def test_a_second_update_of_a_worker_for_a_round_does_not_count(
    begin: Begin, instance: str, is_committed: bool
) -> None:
    """Delivered again by the broker, or sent by a restarted worker: the latter is in the ledger."""
    run = begin(ZERO)
    run.fold_all([("a", ONE)])
    if is_committed:
        run.aggregator.finish()
    run.fold_all([("a", TWO)], instance=instance)
    assert run.round == 1
    run.fold_all([("b", TWO)])
    assert values(run) == [1.5, 0.0]
    duplicates = [("a", "duplicate")] if instance == "ffffffff" else []
    assert run.verdicts() == [("a", "folded"), *duplicates, ("b", "folded")]
    assert run.closed("num_duplicate") == [(len(duplicates),)]
    assert not run.reasons


def test_an_update_for_a_closed_round_is_late_and_in_the_ledger(begin: Begin) -> None:
    run = begin(ZERO)
    run.fold_all([("a", ONE), ("b", TWO)])
    run.fold_all([("c", ONE)], round=1)
    assert run.round == 2
    assert run.verdicts("worker, verdict, round, base_round, staleness, reason")[-1] == (
        "c",
        "late",
        2,
        1,
        1,
        "round 1 is closed; the open one is 2",
    )
    assert not run.reasons


def test_a_duplicate_of_an_update_in_a_closed_round_is_a_duplicate_and_not_late(begin: Begin) -> None:
    run = begin(ZERO)
    run.fold_all([("a", ONE), ("b", TWO)])
    run.fold_all([("a", ONE)], round=1, instance="ffffffff")
    assert run.verdicts()[-1] == ("a", "duplicate")


def test_a_stale_update_counts_at_a_discount_while_that_is_allowed(begin: Begin) -> None:
    run = begin(ZERO, max_staleness=1)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.send("c", ONE, round=1)
    run.send("a", ONE)
    run.settle()
    assert run.round == 3
    assert values(run) == pytest.approx([1 + (2**-0.5 + 1) / 2, 0.5 + (2**-0.5 + 1) / 4])
    run.fold_all([("d", ONE)], round=1)
    assert run.verdicts("worker, verdict, staleness")[-2:] == [("a", "folded", 0), ("d", "late", 2)]


def test_a_worker_may_be_folded_twice_in_a_round_for_two_base_rounds(begin: Begin) -> None:
    run = begin(ZERO, max_staleness=1)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.send("c", ONE, round=1)
    run.send("c", ONE, round=2)
    run.settle()
    assert run.round == 3


def test_blobs_are_deleted_once_their_update_is_committed_and_not_before(begin: Begin) -> None:
    run = begin(ZERO, part_bytes=8)
    run.send("a", ONE, blob_bytes=8)
    run.settle()
    assert len(run.broker.blobs) == 1
    run.aggregator.finish()
    assert not run.broker.blobs
    run.send("b", TWO, blob_bytes=8)
    run.settle()
    assert values(run) == [1.5, 0.0]
    assert not run.broker.blobs


def test_a_model_above_the_inline_cap_travels_as_a_blob_and_old_blobs_go(begin: Begin) -> None:
    run = begin(ZERO, inline_cap=8, part_bytes=8, rounds=5)
    for number in range(1, 5):
        assert run.head.blob is not None
        assert run.head.blob.name == run.topology.model_blob(run.head.run_id, number)
        assert values(run) == [1.5 * (number - 1), 0.0]
        run.fold_all([("a", ONE), ("b", TWO)])
    assert run.broker.blobs.keys() == {run.topology.model_blob(run.head.run_id, number) for number in (4, 5)}


@pytest.mark.parametrize("inline_cap", [0, 8, 2**20])
def test_each_model_tells_the_inline_cap_of_the_run(begin: Begin, inline_cap: int) -> None:
    run = begin(ZERO, inline_cap=inline_cap, part_bytes=8)
    assert run.head.inline_cap == inline_cap
    run.fold_all([("a", ONE), ("b", TWO)])
    assert (run.round, run.head.inline_cap) == (2, inline_cap)


@pytest.mark.parametrize("caps", [(0, 2**20), (2**20, 0)])
def test_a_blob_that_was_left_under_the_inline_cap_before_a_restart_is_freed(
    begin: Begin, caps: tuple[int, int]
) -> None:
    """The head that is out goes on to tell the one of before."""
    run = begin(ZERO, inline_cap=caps[0], part_bytes=8)
    run.aggregator.close()
    again = begin(ZERO, inline_cap=caps[1], part_bytes=8, broker=run.broker)
    assert again.head.inline_cap == caps[0]
    half = again.topology.update_blob("c", again.head.run_id, 1)
    again.announce("c", state="sending", round=1)
    again.site.write_blob(half, [b"half"])
    again.fold_all([("a", ONE), ("b", TWO)])
    again.fold_all([("a", ONE), ("b", TWO)])
    assert half not in again.broker.blobs


def test_the_deadline_closes_a_round_with_fewer_than_the_quorum(begin: Begin) -> None:
    run = begin(ZERO, deadline_s=60)
    run.fold_all([("a", ONE)])
    run.pass_time(59)
    assert run.round == 1
    run.pass_time(1)
    assert run.round == 2
    assert values(run) == [1.0, 0.5]
    assert run.closed("closed_by, num_folded, seconds") == [("deadline", 1, 60.0)]


def test_a_round_that_is_extended_waits_for_its_floor_and_closes_at_once_then(begin: Begin) -> None:
    run = begin(ZERO, deadline_s=60, min_updates=2, quorum="3")
    run.fold_all([("a", ONE)])
    run.pass_time(200)
    assert run.round == 1
    run.fold_all([("b", TWO)])
    assert run.closed("closed_by, num_folded") == [("deadline", 2)]


def test_a_round_that_accepts_less_than_its_floor_takes_what_there_is(begin: Begin) -> None:
    run = begin(ZERO, deadline_s=60, min_updates=2, on_short="accept")
    run.fold_all([("a", ONE)])
    run.pass_time(60)
    assert values(run) == [1.0, 0.5]
    run.pass_time(60)
    assert values(run) == [1.0, 0.5]
    assert run.closed("closed_by, num_folded") == [("short", 1), ("short", 0)]


def test_an_abandoned_round_leaves_the_model_as_it_was_and_its_updates_in_the_ledger(begin: Begin) -> None:
    run = begin(ZERO, deadline_s=60, min_updates=2, on_short="abandon")
    run.fold_all([("a", ONE)])
    run.pass_time(60)
    assert run.round == 2
    assert values(run) == [0.0, 0.0]
    assert run.closed("closed_by, num_folded") == [("abandoned", 0)]
    assert run.verdicts() == [("a", "abandoned")]
    run.fold_all([("a", ONE), ("b", ONE)])
    assert values(run) == [1.0, 0.5]


def test_the_grace_lets_more_updates_in(begin: Begin) -> None:
    run = begin(ZERO, grace_s=10)
    run.fold_all([("a", ONE), ("b", ONE)])
    run.pass_time(9)
    run.fold_all([("c", state_of(w=[4.0, 0.5]))])
    assert run.round == 1
    run.pass_time(1)
    assert values(run) == [2.0, 0.5]


def test_a_share_of_those_present_closes_a_round(begin: Begin) -> None:
    run = begin(ZERO, quorum="50%")
    for name in "abcd":
        run.announce(name)
    run.fold_all([("a", ONE)])
    assert run.round == 1
    run.fold_all([("b", ONE)])
    assert run.round == 2


def test_a_worker_that_falls_silent_no_longer_counts_for_a_share(begin: Begin) -> None:
    run = begin(ZERO, quorum="100%")
    run.announce("a")
    run.announce("b")
    run.fold_all([("a", ONE)])
    run.pass_time(30)
    run.announce("a", state="training")
    assert run.round == 1
    run.pass_time(6)
    assert run.round == 2


def test_workers_that_speak_once_a_minute_count_for_a_share_in_between(begin: Begin) -> None:
    run = begin(ZERO, quorum="100%")
    for name in "abc":
        run.announce(name, every_s=60.0)
    run.pass_time(59)
    run.fold_all([("a", ONE)])
    assert run.round == 1
    run.pass_time(150)
    assert run.round == 1
    run.pass_time(2)
    assert run.round == 2


def test_a_worker_that_leaves_no_longer_counts_for_a_share(begin: Begin) -> None:
    run = begin(ZERO, quorum="100%")
    run.announce("a")
    run.announce("b")
    run.fold_all([("a", ONE)])
    run.announce("b", state="leaving")
    assert run.round == 2


def test_a_share_counts_workers_whose_sign_of_life_came_before_the_first_update(begin: Begin) -> None:
    """Both wait on the broker when the aggregator looks: the update must not overtake who is there."""
    run = begin(ZERO, quorum="100%")
    for name in "abc":
        run.site.announce(encode(Presence(worker=name, instance="00112233", state="idle")), worker=name)
    run.send("a", ONE)
    run.settle()
    assert run.round == 1


def test_time_left_is_never_negative_and_ends_with_the_deadline(begin: Begin) -> None:
    run = begin(ZERO, deadline_s=60)
    assert run.aggregator.time_left() == pytest.approx(0.001)
    run.pass_time(0)
    for seconds in (1.0, 28.0, 25.0, 4.0, 1.0):
        assert 0 < run.aggregator.time_left() <= 60.01
        run.pass_time(seconds)
    assert run.aggregator.time_left() == pytest.approx(1.001)


def test_an_open_round_is_committed_after_a_while(begin: Begin) -> None:
    run = begin(ZERO, commit_every_s=5)
    run.fold_all([("a", ONE)])
    assert run.query("SELECT count(*) FROM updates") == [(0,)]
    run.pass_time(5)
    assert run.query("SELECT worker, verdict FROM updates") == [("a", "folded")]


def test_two_workers_of_one_name_are_told_once_and_counted_once(begin: Begin) -> None:
    run = begin(ZERO)
    num_heads = run.broker.num_heads
    for instance in ("00112233", "44556677", "00112233", "44556677"):
        run.announce("a", instance=instance)
    assert run.head.name_conflicts == ("a",)
    assert run.broker.num_heads == num_heads + 1
    assert values(run) == [0.0, 0.0]
    run.fold_all([("a", ONE)], instance="00112233")
    run.fold_all([("a", TWO)], instance="44556677")
    assert run.round == 1
    run.fold_all([("b", TWO)])
    assert values(run) == [1.5, 0.0]
    assert run.head.name_conflicts == ("a",)


def test_a_restarted_worker_is_no_conflict(begin: Begin) -> None:
    run = begin(ZERO)
    for instance in ("00112233", "00112233", "44556677", "44556677"):
        run.announce("a", instance=instance)
    assert run.head.name_conflicts == ()


def test_batch_norm_s_statistics_are_averaged_and_its_counter_is_rounded(begin: Begin) -> None:
    state = dict(torch.nn.BatchNorm1d(2).state_dict())
    run = begin(StateTask(state))
    one = {name: torch.ones_like(tensor) for name, tensor in state.items()}
    two = {name: torch.full_like(tensor, 2) for name, tensor in state.items()}
    run.fold_all([("a", one), ("b", two)])
    assert run.model["running_mean"].tolist() == [1.5, 1.5]
    assert run.model["weight"].tolist() == [2.5, 2.5]
    assert run.model["num_batches_tracked"].item() == 2  # 1.5, half to even


@pytest.mark.parametrize(("deltas", "result"), [((1, 2), 2), ((0, 1), 0), ((2, 3), 2), ((-1, 0), 0), ((-1, -2), -2)])
def test_integers_are_rounded_half_to_even(begin: Begin, deltas: tuple[int, int], result: int) -> None:
    run = begin(StateTask(state_of(n=[0])))
    run.fold_all([("a", state_of(n=[deltas[0]])), ("b", state_of(n=[deltas[1]]))])
    assert run.model["n"].tolist() == [result]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integers_stay_within_their_dtype(begin: Begin, dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    initial = {"high": torch.tensor(limits.max, dtype=dtype), "low": torch.tensor(limits.min, dtype=dtype)}
    run = begin(StateTask(initial), quorum="1")
    run.fold_all([("a", {"high": torch.tensor(10), "low": torch.tensor(-10)})])
    assert (run.model["high"].item(), run.model["low"].item()) == (limits.max, limits.min)
    assert run.model["high"].dtype == dtype


def test_small_and_empty_tensors_of_every_float_dtype_go_through_a_round_and_a_commit(begin: Begin) -> None:
    initial = {
        "d": torch.zeros(2, dtype=torch.float64),
        "h": torch.zeros(1, 1, dtype=torch.float16),
        "b": torch.tensor(0.0, dtype=torch.bfloat16),
        "e": torch.zeros(0, 3),
    }
    run = begin(StateTask(initial))
    ones = {name: torch.ones_like(tensor) for name, tensor in initial.items()}
    run.fold_all([("a", ones)])
    run.aggregator.finish()
    run.fold_all([("b", ones)])
    assert run.round == 2
    for name, tensor in run.model.items():
        assert torch.equal(tensor, ones[name])
        assert tensor.dtype == initial[name].dtype


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 2), max_size=6), st.permutations(range(4)), st.booleans())
def test_any_order_any_duplicates_and_any_commits_give_the_same_digest(
    tmp_path_factory: pytest.TempPathFactory, repeats: list[int], order: list[int], commits: bool
) -> None:
    """Four workers, some repeated, in any order, committed after each or not: always the same model."""
    random = torch.Generator().manual_seed(5)
    deltas = [{"w": torch.randn(2, generator=random, dtype=torch.float64)} for _ in range(4)]
    run = EmbeddedRun.make(tmp_path_factory.mktemp("run"), ZERO, quorum="4").start()
    try:
        for index in [*(order[each] for each in repeats), *order]:
            run.fold_all([(f"w{index}", deltas[index])], num_samples=index + 1, round=1)
            if commits and run.aggregator.is_running:
                run.aggregator.finish()
        digest = run.head.sha256
        assert run.round == 2
    finally:
        run.aggregator.close()
    assert _DIGESTS.setdefault("digest", digest) == digest


_DIGESTS: dict[str, str] = {}
