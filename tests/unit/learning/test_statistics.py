"""Statistics over sites are those of all samples in one place, and nothing is lost where the mean is large."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from console.errors import TaskError
from learning import Plan, Site
from learning.loading import load_task
from learning.sums import Layout, SitsOut, StatisticsTask, columns_of, digest_of, figures_of
from learning.sums.quantiles import bracket_of, histogram, rank_of
from learning.sums.sum_task import OPERATIONS, arrays_of
from simulation.statistics.cli import main


class Rows:
    """A task of one's own with columns of numbers."""

    def __init__(self, labels: Sequence[int] | None = None, **columns: Sequence[float]) -> None:
        self.columns = columns
        if labels is not None:
            self.labels = lambda: labels

    def features(self) -> Mapping[str, Any]:
        return self.columns


def taken(sites: Sequence[Any], *, rounds: int = 2, **layout: Any) -> dict[str, Any]:
    """The figures of these sites, which answer in each round."""
    columns = columns_of(sites[0])
    task = StatisticsTask(sites[0], Layout(**{"num_features": columns.num_features} | layout))
    model = task.model()
    for number in range(1, rounds + 1):
        given = []
        for site in sites:
            own = StatisticsTask(site, task.layout)
            returned = own.sums(model, Plan(round=number, seed=0, lr=0.1))
            given.append(
                arrays_of(returned, {name: model.state_dict()[name] for name in task.operations}, task.operations)
            )
        put_together = {"sum": torch.sum, "min": torch.amin, "max": torch.amax}
        task.apply(
            model,
            {
                name: put_together[operation](torch.stack([each[name] for each in given]), dim=0)
                for name, operation in task.operations.items()
            },
        )
    return figures_of(model.state_dict(), columns.names)


def test_mean_and_deviation_are_those_of_all_samples() -> None:
    figures = taken([Rows(x=[1, 2, 3]), Rows(x=[10, 20]), Rows(x=[100])])
    (x,) = figures["features"]
    assert x["mean"] == pytest.approx(22.666666666667, abs=1e-12)
    assert x["std"] == pytest.approx(35.193118014117, abs=1e-12)
    assert x["sample_std"] == pytest.approx(38.552129210546, abs=1e-12)
    assert (x["count"], x["min"], x["max"], figures["num_sites"]) == (6, 1, 100, 3)


def test_a_small_variance_beside_a_large_mean_keeps_its_digits() -> None:
    (x,) = taken([Rows(x=[1e8, 1e8 + 1]), Rows(x=[1e8 + 2])])["features"]
    assert x["std"] ** 2 == pytest.approx(2 / 3, abs=1e-12)


def test_each_round_is_about_the_sites_that_answer_in_it() -> None:
    first, later = Rows(x=[1e6, 1e6 + 1]), Rows(x=[0.0, 4.0])
    task = StatisticsTask(first, Layout(num_features=1, num_bins=4, levels=(0.5,)))
    model = task.model()
    for number, site in enumerate((first, later), start=1):
        returned = StatisticsTask(site, task.layout).sums(model, Plan(round=number, seed=0, lr=0.1))
        task.apply(model, arrays_of(returned, {n: model.state_dict()[n] for n in task.operations}, task.operations))
    (x,) = figures_of(model.state_dict())["features"]
    assert x["mean"] == pytest.approx(2.0, abs=1e-9)
    assert x["std"] == pytest.approx(2.0, abs=1e-3)  # about a mean of 1e6, ten digits of sixteen are gone
    assert (x["min"], x["max"], x["histogram"]["below"]) == (0, 4, 2)
    assert (
        x["quantiles"][0]["value"] - x["quantiles"][0]["within"]
        <= 0
        <= x["quantiles"][0]["value"] + x["quantiles"][0]["within"]
    )


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_quantiles_are_in_bins_that_become_narrower_with_each_round(rounds: int) -> None:
    values = np.random.default_rng(0).normal(size=1000) ** 3
    (x,) = taken([Rows(x=part) for part in np.split(values, [100, 700])], rounds=rounds, levels=(0.0, 0.1, 0.5, 1.0))[
        "features"
    ]
    for quantile in x["quantiles"]:
        exact = np.sort(values)[rank_of(quantile["level"], 1000) - 1]
        assert abs(quantile["value"] - exact) <= quantile["within"] * (1 + 1e-12)
        assert quantile["within"] <= (values.max() - values.min()) / 2 / 32 ** (rounds - 1) * (1 + 1e-9)


def test_a_histogram_counts_every_value_once() -> None:
    values = np.array([-1.0, 0.0, 0.25, 0.5, 0.999, 1.0, 1.5])
    assert histogram(values, 0.0, 1.0, 4).tolist() == [1, 1, 1, 1, 2, 1]
    assert histogram(np.full(3, 7.0), 7.0, 7.0, 4).tolist() == [0, 0, 0, 0, 3, 0]
    assert bracket_of(histogram(values, 0.0, 1.0, 4), (0.0, 1.0), -1.0, 1.5, 7) == (1.0, 1.5)


def test_missing_values_and_labels_are_counted_apart() -> None:
    figures = taken([Rows([0, 2, -1], x=[1, np.nan, 3]), Rows([2], x=[np.nan])], num_classes=3)
    assert [figures["features"][0][name] for name in ("count", "missing", "mean")] == [2, 2, 2.0]
    assert (figures["labels"], figures["unlabelled"]) == ([1, 0, 2], 1)


def test_a_feature_that_nobody_has_has_no_figures() -> None:
    (x,) = taken([Rows(x=[np.nan])])["features"]
    assert (x["count"], x["missing"], x["mean"], x["histogram"]) == (0, 1, None, None)


def test_small_counts_are_withheld_at_the_site() -> None:
    site = Rows([0] * 9 + [1], x=[*range(9), 1000.0])
    figures = taken([site], num_classes=2, num_bins=4, suppress_below=2)
    (x,) = figures["features"]
    assert figures["labels"] == [9, 0]
    assert (x["min"], x["max"]) == (1.0, 8.0)
    assert all(count == 0 or count >= 2 for count in x["histogram"]["counts"])
    assert x["histogram"]["above"] == 0


@pytest.mark.parametrize(
    ("site", "layout", "why"),
    [
        (Rows(x=[1.0]), {"min_samples": 2}, "has 1 samples, and statistics are of sites with 2"),
        (Rows(x=[1.0]), {"num_features": 3}, "have 1 features; the statistics are of 3"),
        (Rows([5], x=[1.0]), {"num_classes": 3}, r"labels reach 5; the statistics count those below 3 \(--classes\)"),
        (Rows(x=[1.0]), {"names": digest_of(["y"])}, "its features are x: not the aggregator's"),
    ],
)
def test_a_site_that_does_not_fit_says_why(site: Rows, layout: Any, why: str) -> None:
    with pytest.raises(SitsOut, match=why):
        taken([site], **layout)


def test_images_have_a_feature_for_each_channel_and_rows_one_for_each_number() -> None:
    digits, cells = (load_task(name, Site(name="a", index=0, num_sites=2)) for name in ("digits", "breast-cancer"))
    assert (columns_of(digits).num_features, columns_of(cells).num_features) == (1, 30)
    (pixel,) = taken([digits], num_classes=10)["features"]
    assert pixel["count"] == 64 * columns_of(digits).num_samples


def test_too_many_features_are_refused_in_one_line() -> None:
    with pytest.raises(TaskError, match="1 to 4096 features, and the task has 5000"):
        Layout(num_features=5000)


def test_a_task_without_features_is_told_how_to_have_some() -> None:
    with pytest.raises(TaskError, match=r"method features\(\)"):
        columns_of(nn.Linear(1, 1))


@pytest.mark.timeout(120)
def test_the_command_simulates_sites_and_the_partition_changes_no_count(tmp_path: Path) -> None:
    found = []
    for workers in ("2", "5"):
        arguments = ["--task", "breast-cancer", "--simulate", workers, "--state", str(tmp_path / workers)]
        assert main([*arguments, "--partition", "dirichlet:0.5", "--quantile-rounds", "1"]) == 0
        assert main(arguments + ["--partition", "dirichlet:0.5", "--quantile-rounds", "1"]) == 0  # noqa: RUF005 (again: it is finished)
        found.append(json.loads((tmp_path / workers / "statistics.json").read_text()))
    for figures, num_sites in zip(found, (2, 5), strict=True):
        sites = [
            Site(name=f"worker-{i}", partition="dirichlet:0.5", index=i, num_sites=num_sites) for i in range(num_sites)
        ]
        pooled = torch.cat([load_task("breast-cancer", site).split.train[0] for site in sites]).double().numpy()
        assert [feature["mean"] for feature in figures["features"]] == pytest.approx(pooled.mean(axis=0), abs=1e-12)
        assert [feature["std"] for feature in figures["features"]] == pytest.approx(pooled.std(axis=0), abs=1e-12)
        assert sum(figures["labels"]) == figures["num_samples"] == len(pooled)


@pytest.mark.timeout(60)
def test_the_command_says_when_no_site_has_enough_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", "breast-cancer", "--simulate", "3", "--min-samples", "5000", "--state", str(tmp_path)]
    assert main(arguments) == 3
    assert "there are no statistics: of 2 rounds only 0" in capsys.readouterr().err


def test_operations_are_those_that_the_wire_knows() -> None:
    assert set(StatisticsTask.operations.values()) == set(OPERATIONS)
