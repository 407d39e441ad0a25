"""A disk that takes no more: the aggregator stops with one clear line, and the same command goes on."""

import resource

import pytest
from federation import Federation

from console.errors import ExitCode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)

NAMES = ("worker-0", "worker-1")
RUN = ("--rounds", "3", "--quorum", "2", "--commit-every-s", "0.05")


def test_a_commit_that_does_not_fit_the_disk_stops_the_aggregator_and_loses_nothing(
    federation: Federation, undisturbed_sha256: object
) -> None:
    assert callable(undisturbed_sha256)
    expected = undisturbed_sha256(*NAMES, rounds=3)
    federation.gates.hold("worker-0", 2)
    federation.gates.hold("worker-1", 2)
    aggregator = federation.aggregator(*RUN)
    workers = [federation.worker(name) for name in NAMES]
    aggregator.says("round   1 ↻")
    federation.wait_for_head(2)

    full_at = (federation.state / "ledger.sqlite-wal").stat().st_size
    resource.prlimit(aggregator.pid, resource.RLIMIT_FSIZE, (full_at, full_at))  # as good as ENOSPC
    federation.gates.release("worker-0", 2)
    assert aggregator.ends() == ExitCode.STATE
    assert "Traceback" not in aggregator.said
    assert aggregator.said.splitlines()[-1].startswith("fl-aggregator: ")
    assert federation.verdicts("worker-0", 2) == []

    successor = federation.aggregator(*RUN)
    federation.gates.release("worker-1", 2)
    assert [successor.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
    assert federation.folded() == [(number, name) for number in (1, 2, 3) for name in NAMES]
    assert federation.summary["final"]["model_sha256"] == expected
