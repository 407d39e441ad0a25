"""fl-simulate with differential privacy: whoever adds it, the models have the noise that was announced.

The task's training moves nothing, so each model is the one before and the noise on the mean.
"""

import json
import sqlite3
from contextlib import closing
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


def test_with_keepers_a_clip_adapts_to_what_workers_say_under_their_masks(tmp_path: Path) -> None:
    """All say that they are within it, so it shrinks; with noise of 0.2 updates on the count of 4, by at least this."""
    path = tmp_path / "still_task.py"
    path.write_text(TASK, encoding="utf-8")
    own = {"task": f"{path}:task", "workers": WORKERS, "rounds": ROUNDS, "state": tmp_path / "run"}
    noised = NOISED | {"dp_clip": f"adaptive:0.5:{CLIP}", "dp_noise": 0.3, "dp_epsilon": 500.0}
    history = simulate(**own, **noised, **SECURE | {"keeper": "one,two"})
    with closing(sqlite3.connect(tmp_path / "run" / "keeper-one" / "keeper.db")) as ledger:
        clips = [clip for (clip,) in ledger.execute("SELECT clip FROM releases ORDER BY round")]
    assert len(clips) == ROUNDS
    assert clips[0] == CLIP
    assert all(CLIP * 0.9**number <= clip < CLIP for number, clip in enumerate(clips[1:], start=1))
    assert [row["closed_by"] for row in history.rounds()] == ["quorum"] * ROUNDS
