"""Root, partial aggregators and workers as processes over RabbitMQ: the same bits as with one aggregator."""

from collections.abc import Callable
from pathlib import Path

import pytest
from federation import Command, Federation, run_command
from rabbitmq_node import RabbitNode, skip_without_rabbitmq

from broker.wire.codec import encode
from broker.wire.messages import ModelHead, PartialHead
from broker.wire.topology import partial_key, shard_of
from console.errors import ExitCode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)  # of which an idle machine needs fifteen seconds

NAMES = ("worker-0", "worker-1", "worker-2", "worker-5")
SHARDS = [[name for name in NAMES if shard_of(name, 2) == shard] for shard in (0, 1)]
RUN = ("--rounds", "3", "--quorum", "4", "--shards", "2")
BLOBS = ("--inline-cap", "0")


@pytest.fixture
def expected(undisturbed_sha256: Callable[..., str]) -> str:
    return undisturbed_sha256(*NAMES, rounds=3)


def started_partials(federation: Federation, *flags: str) -> list[Command]:
    partials = [federation.partial(shard, 2, *flags) for shard in (0, 1)]
    for partial in partials:
        partial.says("partial aggregator of shard")
    return partials


def assert_all_folded_once(federation: Federation) -> None:
    assert federation.folded() == [(number, name) for number in (1, 2, 3) for name in NAMES]


def test_both_shards_have_workers() -> None:
    assert [len(shard) for shard in SHARDS] == [2, 2]


@pytest.mark.parametrize("flags", [(), BLOBS], ids=["inline", "blobs"])
def test_a_run_with_two_partial_aggregators_ends_with_the_bits_of_one_without(
    federation: Federation, expected: str, flags: tuple[str, ...]
) -> None:
    partials = started_partials(federation, *flags)
    aggregator = federation.aggregator(*RUN, *flags)
    workers = [federation.worker(name, *flags) for name in NAMES]

    assert [each.ends() for each in (aggregator, *partials, *workers)] == [0] * 7
    assert federation.summary["final"]["model_sha256"] == expected
    assert_all_folded_once(federation)
    assert aggregator.said.count("⇐ shard") >= 6
    assert "←" not in aggregator.said  # no update came to the root alone


def test_a_partial_killed_with_updates_folded_and_not_sent_loses_none(federation: Federation, expected: str) -> None:
    held, first = SHARDS[0]
    federation.gates.hold(held, 2)
    slow = ("--flush-s", "3600")
    partials = [federation.partial(0, 2, *slow), federation.partial(1, 2)]
    for partial in partials:
        partial.says("partial aggregator of shard")
    aggregator = federation.aggregator(*RUN)
    workers = [federation.worker(name) for name in NAMES]
    partials[0].says(f"round   1 ← {held}")
    partials[0].says(f"round   1 ← {first}")
    partials[0].kill()
    partials[0] = federation.partial(0, 2)
    federation.wait_for_verdict("folded", first, 1)
    federation.gates.release(held, 2)

    assert [each.ends() for each in (aggregator, *partials, *workers)] == [0] * 7
    assert federation.summary["final"]["model_sha256"] == expected
    assert_all_folded_once(federation)


def test_a_second_partial_of_a_shard_stands_by_and_takes_over(federation: Federation, expected: str) -> None:
    held = SHARDS[1][0]
    federation.gates.hold(held, 2)
    partials = started_partials(federation)
    standby = federation.partial(1, 2)
    standby.says("another aggregator leads; standing by")
    aggregator = federation.aggregator(*RUN, "--commit-every-s", "0.05")
    workers = [federation.worker(name) for name in NAMES]
    federation.wait_for_verdict("folded", SHARDS[1][1], 2)
    partials[1].kill()
    standby.says("partial aggregator of shard 1 of 2")
    federation.gates.release(held, 2)

    assert [each.ends() for each in (aggregator, partials[0], standby, *workers)] == [0] * 7
    assert federation.summary["final"]["model_sha256"] == expected
    assert_all_folded_once(federation)


def test_a_root_killed_after_a_commit_goes_on_with_the_partial_sums_it_has(
    federation: Federation, expected: str
) -> None:
    held = SHARDS[1][0]
    federation.gates.hold(held, 2)
    partials = started_partials(federation)
    aggregator = federation.aggregator(*RUN, "--commit-every-s", "0.05")
    workers = [federation.worker(name) for name in NAMES]
    federation.wait_for_verdict("folded", SHARDS[0][0], 2)
    aggregator.kill()
    aggregator = federation.aggregator(*RUN)
    aggregator.says("round 2 goes on with")
    federation.gates.release(held, 2)

    assert [each.ends() for each in (aggregator, *partials, *workers)] == [0] * 7
    assert federation.summary["final"]["model_sha256"] == expected
    assert_all_folded_once(federation)


def test_updates_wait_for_a_partial_that_is_started_late(federation: Federation, expected: str) -> None:
    aggregator = federation.aggregator(*RUN)
    workers = [federation.worker(name) for name in NAMES]
    for worker in workers:
        worker.says("round   1 →")
    partials = started_partials(federation)

    assert [each.ends() for each in (aggregator, *partials, *workers)] == [0] * 7
    assert federation.summary["final"]["model_sha256"] == expected
    assert_all_folded_once(federation)


def test_a_bad_partial_sum_and_one_that_comes_twice_change_nothing(federation: Federation, expected: str) -> None:
    held = SHARDS[0][0]
    federation.gates.hold(held, 2)
    partials = started_partials(federation)
    aggregator = federation.aggregator(*RUN, "--commit-every-s", "0.05")
    workers = [federation.worker(name) for name in NAMES]
    federation.wait_for_verdict("folded", SHARDS[1][0], 2)
    model = federation.wait_for_head(2)
    with federation.channel() as channel:
        for body in (b"garbage", bad_sum(model)):
            channel.basic_publish(federation.topology.inbound, partial_key(0), body, mandatory=True)
    federation.gates.release(held, 2)

    assert [each.ends() for each in (aggregator, *partials, *workers)] == [0] * 7
    assert federation.summary["final"]["model_sha256"] == expected
    assert_all_folded_once(federation)
    reasons = [
        reason for (reason,) in federation.rows("SELECT reason FROM updates WHERE verdict = 'refused' ORDER BY id")
    ]
    assert len(reasons) == 2
    assert reasons[0].startswith("not a fedmq message")
    assert reasons[1] == "its body does not match its digest"
    listed = run_command(
        "operations.dead_cli",
        "list",
        "--queue",
        federation.queue,
        folder=federation.folder,
        env={"FEDMQ_BROKER": federation.broker},
    )
    assert listed.returncode == 0, listed.stderr
    assert "digest" in listed.stdout


def bad_sum(model: ModelHead) -> bytes:
    """One that announces another digest than its payload's."""
    head = PartialHead.model_validate(
        {
            "tensors": model.tensors,
            "sha256": "0" * 64,
            "run_id": model.run_id,
            "round": model.round,
            "shard": 0,
            "num_shards": 2,
            "sequence": 0,
            "bound": 1.0,
            "updates": [
                {
                    "worker": SHARDS[0][0],
                    "instance": "0123456789abcdef",
                    "num_samples": 5,
                    "num_bytes": 32,
                    "train_s": 0.0,
                    "sent_at": 0.0,
                }
            ],
        }
    )
    return encode(head, bytes(head.num_bytes))


def test_a_partial_told_to_stop_leaves_what_it_has_not_sent_to_the_next(federation: Federation, expected: str) -> None:
    held, first, *_ = SHARDS[0]
    federation.gates.hold(held, 2)
    partials = [federation.partial(0, 2, "--flush-s", "3600"), federation.partial(1, 2)]
    for partial in partials:
        partial.says("partial aggregator of shard")
    aggregator = federation.aggregator(*RUN)
    workers = [federation.worker(name) for name in NAMES]
    partials[0].says(f"round   1 ← {first}")
    partials[0].terminate()
    assert partials[0].ends() == ExitCode.INTERRUPTED
    partials[0] = federation.partial(0, 2)
    federation.gates.release(held, 2)

    assert [each.ends() for each in (aggregator, *partials, *workers)] == [0] * 7
    assert federation.summary["final"]["model_sha256"] == expected
    assert_all_folded_once(federation)


def test_a_broker_killed_in_mid_round_costs_nothing(tmp_path: Path, queue: str, expected: str) -> None:
    held = SHARDS[0][0]
    skip_without_rabbitmq()
    folder = tmp_path / "private"
    folder.mkdir()
    with (
        RabbitNode(tmp_path / "node") as node,
        Federation(folder, broker=started(node).url, queue=queue) as federation,
    ):
        federation.gates.hold(held, 2)
        partials = started_partials(federation)
        aggregator = federation.aggregator(*RUN, "--commit-every-s", "0.05")
        workers = [federation.worker(name) for name in NAMES]
        federation.wait_for_verdict("folded", SHARDS[1][0], 2)
        node.kill()
        partials[0].says("connection lost")
        node.start()
        federation.gates.release(held, 2)

        assert [each.ends() for each in (aggregator, *partials, *workers)] == [0] * 7
        assert federation.summary["final"]["model_sha256"] == expected
        assert_all_folded_once(federation)


def started(node: RabbitNode) -> RabbitNode:
    node.start()
    return node
