"""Two seeds of the storm. `make chaos` runs more of them, and longer."""

from pathlib import Path

import pytest
from chaos.storm import Storm, undisturbed
from rabbitmq_node import RabbitNode

NUM_ROUNDS = 8


@pytest.fixture(scope="module")
def expected(node: RabbitNode, tmp_path_factory: pytest.TempPathFactory) -> str:
    return undisturbed(tmp_path_factory.mktemp("calm"), node, num_rounds=NUM_ROUNDS)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_changes_no_bit(seed: int, expected: str, tmp_path: Path, mortal_node: RabbitNode) -> None:
    result = Storm(tmp_path, [mortal_node], seed=seed, num_rounds=NUM_ROUNDS, tell=print).run(expected=expected)
    assert result.is_ok, result
