"""Every algorithm under every disturbance, each at some points: all algorithms together come by all points.

``python -m matrix`` has every algorithm at every point.
"""

from pathlib import Path

import pytest
from matrix.algorithms import ALGORITHMS, Algorithm
from matrix.cells import row_of
from matrix.disturbances import DISTURBANCES, spread
from matrix.faults import TARGETS, Fault
from matrix.federation import NUM_ROUNDS, Federation, Way
from matrix.sharing import share_of, some_of
from matrix.table import legend, table_of

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_every_disturbance_ends_with_the_bits_of_the_undisturbed_run(algorithm: Algorithm) -> None:
    row = row_of(algorithm, some_of(algorithm), share=share_of, most=1)
    assert [told for cell in row for told in cell.differing] == []
    assert row[0].num_runs == 1


def test_all_algorithms_together_come_by_all_points() -> None:
    for disturbance in DISTURBANCES:
        shared = [point for each in ALGORITHMS for point in share_of(each, disturbance.points)]
        assert sorted(map(str, shared)) == sorted(map(str, disturbance.points))
    assert {role for role, targets in TARGETS.items() if targets} == {"aggregator", "worker", "partial"}


def test_an_algorithm_that_goes_by_the_order_of_updates_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    by_arrival = Algorithm("first come", {"sample": "2x2", "min_updates": 2})
    (cell,) = row_of(by_arrival, DISTURBANCES[:1], most=1)
    assert cell.differing
    assert "the digest is" in cell.differing[-1]
    told = legend([[cell]])
    assert told[-1] == f"{cell.num_runs} runs, of which {len(cell.differing)} differ"
    assert "differ" in str(next(iter(table_of([[cell]]).columns[1].cells)))


def test_a_fault_that_never_comes_is_a_problem(tmp_path: Path) -> None:
    never = Fault("worker", "killed", "before", "worker.rounds.trainer:Trainer.train", 1000)
    outcome = Federation(tmp_path, ALGORITHMS[0], Way(fault=never)).run()
    assert outcome.problems == ("the call at which it is disturbed never came",)


_END = "aggregator.state.ledger:Ledger.close_round"


@pytest.mark.parametrize("name", ["fedavg", "median"])
def test_a_kill_right_after_the_last_commit_leaves_no_sum_behind(tmp_path: Path, name: str) -> None:
    algorithm = next(each for each in ALGORITHMS if each.name == name)
    killed = Fault("aggregator", "killed", "after", _END, NUM_ROUNDS)
    assert Federation(tmp_path, algorithm, Way(in_blobs=True, fault=killed)).run().problems == ()


def test_a_fault_in_the_transaction_of_a_start_is_moot(tmp_path: Path) -> None:
    frozen = Fault("aggregator", "frozen", "before", "aggregator.state.ledger:Ledger._set", 1)
    federation = Federation(tmp_path, ALGORITHMS[0], Way(fault=frozen))
    assert federation.run().problems == ()
    assert federation.is_moot


def test_calls_are_spread_over_the_run() -> None:
    assert [spread(10, most) for most in (None, 3, 1)] == [list(range(1, 11)), [1, 5, 10], [5]]
    assert spread(2, 3) == [1, 2]
    assert spread(0, 1) == []
