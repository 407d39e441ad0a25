"""A short stay in the long run: what grows with the rounds shows in sixty of them already. `make soak` runs 1,000."""

from pathlib import Path

import pytest
from crash.fleet import AGGREGATOR
from rabbitmq_node import RabbitNode
from soak.endurance import STEADY, endure

NUM_ROUNDS = 60


@pytest.mark.timeout(300)
def test_a_run_with_workers_that_come_and_go_holds_no_more_at_its_end(node: RabbitNode, tmp_path: Path) -> None:
    report = endure(tmp_path, node, num_rounds=NUM_ROUNDS, is_large=True)
    problems = report.problems(since=NUM_ROUNDS // 2)
    assert problems == [], f"{problems}\n{report.logs}"
    assert report.num_visits > 0
    assert {AGGREGATOR, STEADY} == set(report.samples)
