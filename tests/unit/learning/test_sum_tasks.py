"""k-means and ridge regression from sums: what the samples give in one place, however they are spread over sites."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aggregator import History
from console.errors import TaskError
from learning import Site
from learning.loading import load_task
from simulation import simulate

EXAMPLES = Path(__file__).parents[3] / "examples"
SPREAD: dict[str, Any] = {"workers": 4, "partition": "dirichlet:0.3", "seed": 3}


def model_of(history: History, which: int | str = "last") -> dict[str, torch.Tensor]:
    return load_file(history.model_path(which))


def sites(example: str) -> list[Any]:
    site = [Site(name=f"worker-{index}", partition="dirichlet:0.3", index=index, num_sites=4) for index in range(4)]
    return [load_task(f"{EXAMPLES / example}.py:task", each, own=True) for each in site]


@pytest.mark.timeout(120)
def test_ridge_regression_over_sites_has_the_weights_of_pooled_data(tmp_path: Path) -> None:
    with simulate(f"{EXAMPLES / 'ridge'}.py:task", rounds=1, state=tmp_path, **SPREAD) as history:
        weights = model_of(history)["weights"].numpy()
    inputs = np.concatenate([task.samples[0].numpy() for task in sites("ridge")])
    targets = np.concatenate([task.samples[1].numpy() for task in sites("ridge")])
    penalty = np.diag([1.0] * (inputs.shape[1] - 1) + [0.0])
    pooled = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)
    assert np.abs(inputs @ (weights - pooled)).max() < 1e-9
    assert weights == pytest.approx(pooled, abs=1e-9)


@pytest.mark.timeout(120)
def test_k_means_over_sites_takes_the_steps_of_lloyd_on_pooled_data(tmp_path: Path) -> None:
    with simulate(f"{EXAMPLES / 'k_means'}.py:task", rounds=3, keep_every=1, state=tmp_path, **SPREAD) as history:
        centres = [model_of(history, number)["centres"].numpy() for number in (2, 3)]
    samples = np.concatenate([task.samples.numpy() for task in sites("k_means")])
    nearest = np.square(samples[:, None] - centres[0][None]).sum(axis=2).argmin(axis=1)
    for index, centre in enumerate(centres[1]):
        near = samples[nearest == index]
        assert centre == pytest.approx(near.mean(axis=0) if len(near) else centres[0][index], abs=1e-12)


class Lacking:
    operations = {"sum": "sum"}  # noqa: RUF012

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def sums(self, model: object, plan: object) -> dict[str, Any]:
        return {}

    def evaluate(self, model: object) -> dict[str, float]:
        return {}


def test_a_task_with_sums_and_no_apply_is_refused() -> None:
    with pytest.raises(TaskError, match=r"lacks apply\(\)"):
        simulate(Lacking(), rounds=1, workers=2)
