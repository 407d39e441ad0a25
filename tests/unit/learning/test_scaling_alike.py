"""What is known of all sites' samples reaches every task, and inputs are scaled by it where the task asks for that."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from aggregator import History
from aggregator.history import overview, write_report
from console.errors import SettingsError, StateError, TaskError
from learning import Plan, Site, Split, Supervised
from learning.split import Scaling
from learning.sums import read_condensed
from simulation import simulate

FIGURES: dict[str, Any] = {
    "features": [
        {
            "name": "x",
            "count": 4,
            "mean": 2.0,
            "std": 4.0,
            "min": -1.0,
            "max": 5.0,
            "quantiles": [{"level": 0.5, "value": 1.5}],
        },
        {"name": "y", "count": 0, "mean": None, "std": None, "min": None, "max": None, "quantiles": []},
    ],
    "labels": [3, 1],
}


class Scaled:
    """Notes what it is told."""

    told: dict[str | None, list[Mapping[str, Tensor]]] = {}  # noqa: RUF012

    def __init__(self, site: Site) -> None:
        self.name = site.name
        self.told[site.name] = []

    def prepare(self, statistics: Mapping[str, Tensor]) -> None:
        self.told[self.name].append(statistics)

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
        assert {name: values.tolist() for name, values in plan.statistics.items()} == {
            name: values.tolist() for name, values in self.told[self.name][-1].items()
        }
        return {"num_samples": 1, "mean": float(plan.statistics["mean"][0]) if plan.statistics else -1.0}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        assert self.told[self.name], "it is told before it evaluates"
        return {"loss": 1.0}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps(FIGURES), encoding="utf-8")
    return path


def test_every_task_is_told_once_before_it_evaluates(file: Path, tmp_path: Path) -> None:
    with simulate(Scaled, rounds=2, workers=2, statistics=file, state=tmp_path / "run"):
        pass
    assert sorted(map(str, Scaled.told)) == ["None", "worker-0", "worker-1"]
    for told in Scaled.told.values():
        (statistics,) = told
        assert {name: values.tolist() for name, values in statistics.items()} == {
            "count": [4, 0],
            "mean": [2, 0],
            "std": [4, 0],
            "min": [-1, 0],
            "max": [5, 0],
            "q0.5": [1.5, 0],
            "labels": [3, 1],
        }


def test_a_run_goes_on_with_the_statistics_that_it_began_with(file: Path, tmp_path: Path) -> None:
    with simulate(Scaled, rounds=1, workers=2, statistics=file, state=tmp_path / "run"):
        pass
    with simulate(Scaled, rounds=2, workers=2, state=tmp_path / "run") as history:
        assert [row["train.mean"] for row in history.rounds()] == [2.0, 2.0]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(FIGURES | {"labels": [4, 1]}), encoding="utf-8")
    with pytest.raises(StateError, match="began with other --statistics or with none"):
        simulate(Scaled, rounds=3, workers=2, statistics=other, state=tmp_path / "run")


def test_a_run_shows_the_digest_of_what_it_is_told_and_the_statistics_run_has_the_same(tmp_path: Path) -> None:
    from simulation.statistics.cli import main

    example = f"{Path(__file__).parents[3] / 'examples' / 'raw_features'}.py:task"
    assert main(["--task", example, "--simulate", "3", "--state", str(tmp_path / "s")]) == 0
    with History(tmp_path / "s") as history:
        excerpt = overview(history)["statistics"]
    with simulate(
        example, rounds=1, workers=3, statistics=tmp_path / "s" / "statistics.json", state=tmp_path / "t"
    ) as trained:
        shown = overview(trained)
    assert shown["settings"]["statistics_sha256"] == excerpt["sha256"]
    assert shown["statistics"] is None  # it has taken none itself
    told, untold = write_report(tmp_path / "t").read_text("utf-8"), write_report(tmp_path / "s").read_text("utf-8")
    assert f"told statistics {excerpt['sha256'][:12]}" in told
    assert "told statistics" not in untold


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"features": [], "labels": []})])
def test_a_file_without_statistics_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"other.json: not a statistics.json of fl-statistics"):
        read_condensed(tmp_path / "other.json")


def test_statistics_that_are_too_large_for_a_head_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps(FIGURES | {"features": FIGURES["features"][:1] * 2000}), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"of 2000 features they take 105 KiB .* at most 64 KiB travel"):
        read_condensed(path)


class Items(Dataset[Any]):
    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.pairs = list(zip(inputs, targets, strict=True))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]


@pytest.mark.parametrize("shape", [(2,), (2, 3, 3)])
def test_inputs_are_scaled_by_feature_and_images_by_channel(shape: tuple[int, ...]) -> None:
    inputs = torch.arange(4.0 * torch.Size(shape).numel()).reshape(4, *shape)
    inputs[0, 0] = torch.nan
    targets = torch.zeros(4, dtype=torch.int64)
    scaling = Scaling(torch.tensor([2.0, 5.0]).double(), torch.tensor([4.0, 0.0]).double())
    scaled = scaling.of((inputs, targets))[0]
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled[1:, 0], (inputs[1:, 0] - 2) / 4)
    assert torch.equal(scaled[:, 1], inputs[:, 1] - 5)  # what does not vary is only shifted
    assert not scaled[0, 0].any()
    one_by_one = scaling.of(Items(inputs, targets))
    assert torch.equal(torch.stack([one_by_one[index][0] for index in range(4)]), scaled)


def test_statistics_of_other_features_are_refused(file: Path, tmp_path: Path) -> None:
    def data(site: Site) -> Split:
        samples = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
        return Split(test=samples) if site.is_aggregator else Split(train=samples)

    task = Supervised(model=lambda: nn.Linear(3, 2), data=data, loss=nn.functional.cross_entropy, normalise=True)
    with pytest.raises(TaskError, match="statistics are of 2 features, and the samples here have 3"):
        simulate(task, rounds=1, workers=2, statistics=file, state=tmp_path / "run")


@pytest.mark.timeout(120)
def test_raw_measures_are_learned_once_they_are_scaled_alike(tmp_path: Path) -> None:
    from simulation.statistics.cli import main

    example = f"{Path(__file__).parents[3] / 'examples' / 'raw_features'}.py:task"
    assert (
        main(["--task", example, "--simulate", "4", "--partition", "dirichlet:0.1", "--state", str(tmp_path / "s")])
        == 0
    )
    accuracy = {}
    for name, own in {"raw": {}, "scaled": {"statistics": tmp_path / "s" / "statistics.json"}}.items():
        settings = {"rounds": 8, "workers": 4, "partition": "dirichlet:0.1", "state": tmp_path / name}
        with simulate(example, **settings, **own) as history:
            accuracy[name] = history.rounds()[-1]["accuracy"]
    assert accuracy["scaled"] > 0.9 > 0.7 > accuracy["raw"]
