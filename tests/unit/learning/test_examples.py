"""The examples learn: a few rounds are enough to see it."""

from pathlib import Path

import pytest

from aggregator import History
from simulation import simulate

EXAMPLES = Path(__file__).parents[3] / "examples"
SETTINGS = {
    "text": {"lr": 1.0, "batch_size": 16, "workers": 2},
    "two_modalities": {"workers": 2},
    "fine_tuning": {"lr": 0.2, "shared": "trainable", "workers": 3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_example_learns(name: str, tmp_path: Path) -> None:
    with simulate(f"{EXAMPLES / name}.py:task", rounds=3, state=tmp_path, **SETTINGS[name]) as history:
        losses = [row["loss"] for row in history.rounds()]
    assert losses[0] > losses[1] > losses[2]


def test_of_a_fine_tuned_model_only_the_head_travels(tmp_path: Path) -> None:
    with simulate(
        f"{EXAMPLES / 'fine_tuning.py'}:task", rounds=1, workers=2, shared="trainable", state=tmp_path
    ) as history:
        (row,) = {update["num_bytes"] for update in history.updates()}
        assert isinstance(history, History)
    assert 325 * 4 < row < 325 * 4 + 1000
