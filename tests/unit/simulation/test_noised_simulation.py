"""fl-simulate with differential privacy: whoever adds it, the models have the noise that was announced.

The task's training moves nothing, so each model is the one before and the noise on the mean.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from simulation import simulate

TASK = """
import torch
from torch import nn


class Still:
    def model(self):
        return nn.Linear(500, 8)

    def train(self, model, plan):
        return {"num_samples": 7, "loss": 1.0}

    def evaluate(self, model):
        return {"loss": 1.0}


task = Still()
"""
WORKERS, ROUNDS, CLIP, NOISE = 4, 3, 0.5, 4.0
NOISED: dict[str, Any] = {
    "dp_clip": str(CLIP),
    "dp_noise": NOISE,
    "dp_epsilon": 8.0,
    "dp_delta": 1e-5,
    "weighting": "uniform",
    "min_updates": WORKERS,
    "quorum": str(WORKERS),
}
SECURE = {"privacy": "secure", "min_sites": 3}


def moved(state: Path) -> np.ndarray[Any, Any]:
    """What each round moved the model by, elements of all rounds."""
    models = [load_file(state / "models" / f"round-{number:05}.safetensors") for number in range(ROUNDS + 1)]
    flat = [np.concatenate([model[name].ravel() for name in sorted(model)]).astype(np.float64) for model in models]
    return np.concatenate([after - before for before, after in pairwise(flat)])


@pytest.mark.parametrize(
    ("settings", "draws"),
    [({}, 1), (SECURE, 1), (SECURE | {"keeper": "one,two"}, 2), ({"dp_where": "workers"}, WORKERS)],
    ids=["aggregator", "keeper", "two keepers", "workers"],
)
def test_models_have_the_noise_that_was_announced(settings: dict[str, Any], draws: int, tmp_path: Path) -> None:
    """So many draws of noise * clip are in each sum; the standard deviation of 12,000 elements is within 4 %."""
    path = tmp_path / "still_task.py"
    path.write_text(TASK, encoding="utf-8")
    state = tmp_path / "run"
    own = {"task": f"{path}:task", "workers": WORKERS, "rounds": ROUNDS, "state": state, "keep_every": 1}
    history = simulate(**own, **NOISED, **settings)
    noise = moved(state)
    assert float(noise.std()) == pytest.approx(NOISE * CLIP * draws**0.5 / WORKERS, rel=0.04)
    assert abs(float(noise.mean())) < 5 * float(noise.std()) / len(noise) ** 0.5
    assert history.summary is not None
    said = json.dumps(history.summary)
    assert '"epsilon"' in said
    assert "one worker, zeroed out or not" in said
