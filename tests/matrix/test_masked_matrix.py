"""Rounds of masked updates with real workers, aggregator and keeper: whatever happens to them, one digest."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matrix.algorithms import Algorithm
from matrix.faults import AFTER, AGGREGATOR, BEFORE, FROZEN, KILLED, PARTIAL, WORKER, Fault
from matrix.federation import Federation, Way
from matrix.keeping import OF_AGGREGATOR, OF_PARTIAL, OF_SUMS, ROLE, SECURE
from matrix.keeping import TARGETS as OF_KEEPER
from matrix.outcome import Outcome

pytestmark = pytest.mark.timeout(120)

ALGORITHM = Algorithm("secure", SECURE)
BLOBS = Way(in_blobs=True)
SHARDS = Way(in_blobs=True, num_shards=2)
OF_WORKER = (
    "worker.rounds.trainer:Trainer.train",
    "broker.memory:MemoryTransport.send",
    "broker.memory:_BlobUpload.write",
)
POINTS = [
    *((AGGREGATOR, KILLED, target) for target in OF_AGGREGATOR),
    *((ROLE, KILLED, target) for target in OF_KEEPER),
    *((AGGREGATOR, FROZEN, target) for target in OF_AGGREGATOR),
]
OF_SHARDS = [
    *((PARTIAL, target) for target in OF_PARTIAL),
    *((AGGREGATOR, target) for target in OF_SUMS),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads changes the last bits of what workers train."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    outcome = Federation(tmp_path_factory.mktemp("undisturbed"), ALGORITHM, Way()).run()
    assert outcome.problems == ()
    return outcome


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], int]:
    federation = Federation(tmp_path_factory.mktemp("counted"), ALGORITHM, BLOBS)
    outcome = federation._run(tuple({*OF_AGGREGATOR, *OF_KEEPER, *OF_WORKER}))
    assert outcome.problems == ()
    return dict(federation.faults.calls)


def test_with_models_in_bfloat16_any_way_of_a_masked_round_ends_with_the_same_bits(
    undisturbed: Outcome, tmp_path: Path
) -> None:
    algorithm = Algorithm("secure, bfloat16 down", {**SECURE, "downlink": "bfloat16"})
    first = Federation(tmp_path / "first", algorithm, Way()).run()
    second = Federation(tmp_path / "second", algorithm, Way(order=3, copies=2, in_blobs=True)).run()
    assert first.problems == ()
    assert second == first != undisturbed


@pytest.mark.parametrize("when", [BEFORE, AFTER])
@pytest.mark.parametrize(("role", "what", "target"), POINTS, ids=lambda value: value.rpartition(":")[2])
def test_killed_or_taken_over_at_any_point_of_a_masked_round_it_ends_with_the_same_bits(
    role: str,
    what: str,
    target: str,
    when: str,
    calls: dict[tuple[str, str], int],
    undisturbed: Outcome,
    tmp_path: Path,
) -> None:
    fault = Fault(role, what, when, target, (calls[role, target] + 1) // 2)
    federation = Federation(tmp_path, ALGORITHM, Way(in_blobs=True, fault=fault))
    outcome = federation.run()
    if not federation.is_moot:
        assert outcome == undisturbed, str(fault)


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_sent_twice_and_killed_at_random_it_ends_with_the_same_bits(
    seed: int, calls: dict[tuple[str, str], int], undisturbed: Outcome, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    role, target = chance.choice([(WORKER, each) for each in OF_WORKER] + [(each[0], each[2]) for each in POINTS])
    when, call = chance.choice([BEFORE, AFTER]), chance.randint(1, max(1, calls[role, target] // 3))
    way = Way(order=1 + seed, is_lazy=seed % 4 == 3, copies=1 + seed % 3, in_blobs=True)
    if not way.is_lazy:  # which comes by fewer calls
        way = replace(way, fault=Fault(role, KILLED, when, target, call))
    assert Federation(tmp_path, ALGORITHM, way).run() == undisturbed, f"{way}"


@pytest.fixture(scope="module")
def calls_with_shards(tmp_path_factory: pytest.TempPathFactory, undisturbed: Outcome) -> dict[tuple[str, str], int]:
    federation = Federation(tmp_path_factory.mktemp("sharded"), ALGORITHM, SHARDS)
    assert federation._run(tuple({target for _, target in OF_SHARDS})) == undisturbed
    return dict(federation.faults.calls)


@pytest.mark.parametrize("when", [BEFORE, AFTER])
@pytest.mark.parametrize(("role", "target"), OF_SHARDS, ids=lambda value: value.rpartition(":")[2])
def test_partial_aggregators_sum_masked_updates_to_the_same_bits_wherever_one_or_the_root_is_killed(
    role: str,
    target: str,
    when: str,
    calls_with_shards: dict[tuple[str, str], int],
    undisturbed: Outcome,
    tmp_path: Path,
) -> None:
    call = (calls_with_shards[role, target] + 1) // 2
    way = replace(SHARDS, order=2, copies=2, fault=Fault(role, KILLED, when, target, call))
    assert Federation(tmp_path, ALGORITHM, way).run() == undisturbed
