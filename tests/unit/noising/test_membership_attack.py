"""Whoever sees all models tells whether one worker took part: with hardly any noise always, with enough by chance."""

import math
from pathlib import Path
from random import Random

import pytest
import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from privacy import delta_of

NUM_ROUNDS = 100
CLIP = 1.0
OTHERS = (("a", 0.5), ("b", -0.25))


def attacked(folder: Path, noise: float) -> float:
    """The attack's advantage: the share of those that it finds among those in, less that among those left out.

    A model of one parameter moves each round by the mean of three updates. In a round, the target's is as long as the
    clip, or zero; the attacker knows all others, and goes by which of both is likelier for the model that comes.
    """
    fields = {"dp_clip": str(CLIP), "dp_noise": noise, "dp_epsilon": 2.0**19, "dp_delta": 1e-5}
    initial = state_of(w=torch.zeros(1, dtype=torch.float64))
    run = EmbeddedRun.make(
        folder, StateTask(initial), rounds=NUM_ROUNDS, quorum="3", min_updates=3, keep_every=1000, **fields
    ).start()
    chance, said = Random(1), {True: [], False: []}
    for _ in range(NUM_ROUNDS):
        before, is_in = run.model["w"].item(), chance.random() < 0.5
        updates = [*OTHERS, ("target", CLIP if is_in else 0.0)]
        run.fold_all([(name, state_of(w=[value])) for name, value in updates], train_s=0.0)
        left = 3 * (run.model["w"].item() - before) - sum(value for _, value in OTHERS)
        log_likelihood = (left**2 - (left - CLIP) ** 2) / (2 * (noise * CLIP) ** 2)
        said[is_in].append(log_likelihood > 0)
    run.aggregator.close()
    return sum(said[True]) / len(said[True]) - sum(said[False]) / len(said[False])


def test_it_succeeds_against_hardly_any_noise(tmp_path: Path) -> None:
    assert attacked(tmp_path, 0.1) > 0.99


def test_it_fails_against_noise_of_four_clips(tmp_path: Path) -> None:
    """No attack's advantage is above delta at epsilon 0; four standard deviations are for the number of rounds."""
    most = delta_of(0.0, 1 / 4)
    assert most == pytest.approx(math.erf(1 / 8 / math.sqrt(2)))
    assert attacked(tmp_path, 4.0) < most + 4 / math.sqrt(NUM_ROUNDS)
