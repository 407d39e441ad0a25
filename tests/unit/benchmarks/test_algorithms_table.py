"""The table of algorithms: its rows are settings that there are, and its figures are put beside the right ones."""

import pytest

from benchmarks.algorithms import GROUPS, MOST_ROUNDS, Ran, table
from simulation.settings import SimulationSettings

ROWS = {name: settings for group in GROUPS for name, settings in group.items()}


@pytest.mark.parametrize("name", ROWS)
def test_each_row_is_a_run_that_can_be(name: str) -> None:
    SimulationSettings(workers=10, **ROWS[name])


def test_a_row_goes_beside_the_first_of_its_group() -> None:
    rounds = {"fedavg": [10, 30], "diloco": [5, 15], "fedavg, plain": [40, None], "fedadam, plain": [20, 30]}
    lines = table({name: [Ran(0, each, 0.5, 1.0) for each in of] for name, of in rounds.items()})
    assert MOST_ROUNDS == 60
    assert lines[2:] == [
        "| fedavg | 10 30 | 1.00 | 0.500 |",
        "| diloco | 5 15 | 0.50 | 0.500 |",
        "| fedavg, plain | 40 - | 1.00 | 0.500 |",
        "| fedadam, plain | 20 30 | 0.50 | 0.500 |",
    ]
