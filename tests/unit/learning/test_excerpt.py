"""What page and report show of a statistics run: bounded, what is left out counted, and the digest of the whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from page_server import answer, served

from aggregator import History
from aggregator.history import overview
from console.errors import ExitCode
from learning.sums import digest_of_told, excerpt_of, read_condensed
from simulation.statistics.cli import main


def feature(name: str, *, num_bins: int = 4) -> dict[str, Any]:
    histogram = {"low": 0.0, "high": 1.0, "counts": list(range(num_bins)), "below": 0, "above": 1}
    quantiles = [{"level": 0.5, "value": 0.4, "within": 0.1}]
    figures = {"mean": 0.5, "std": 0.1, "sample_std": 0.1, "min": 0.0, "max": 1.5}
    return {"name": name, "count": 9, "missing": 0, **figures, "histogram": histogram, "quantiles": quantiles}


def figures(features: list[dict[str, Any]], labels: list[int]) -> dict[str, Any]:
    limits = {"unlabelled": 0, "min_samples": 1, "suppress_below": 0}
    return {"num_sites": 2, "num_samples": 9, "features": features, "labels": labels, **limits}


def test_thousands_of_features_and_labels_are_cut_and_counted() -> None:
    whole = figures([feature("x" * 1000, num_bins=1024)] * 4096, [1] * 100_000)
    shown = excerpt_of(whole)
    assert (len(shown["features"]), shown["num_more_features"]) == (200, 3896)
    assert (len(shown["labels"]), shown["num_more_labels"], shown["num_labelled"]) == (200, 99_800, 100_000)
    assert len(json.dumps(shown)) < 150_000


@pytest.mark.parametrize(("num_bins", "num_bars", "size"), [(4, 4, 1), (32, 32, 1), (33, 17, 2), (1021, 32, 32)])
def test_a_histogram_with_fewer_bars_counts_the_same(num_bins: int, num_bars: int, size: int) -> None:
    (shown,) = excerpt_of(figures([feature("x", num_bins=num_bins)], []))["features"]
    histogram = shown["histogram"]
    assert (len(histogram["counts"]), histogram["bins_a_bar"], histogram["num_bins"]) == (num_bars, size, num_bins)
    assert sum(histogram["counts"]) == sum(range(num_bins))


def test_the_digest_is_of_what_tasks_are_told_wherever_it_was_read(tmp_path: Path) -> None:
    whole = figures([feature("x"), feature("y")], [4, 5])
    (tmp_path / "statistics.json").write_text(json.dumps(whole), encoding="utf-8")
    told = read_condensed(tmp_path / "statistics.json")
    digest = excerpt_of(whole)["sha256"]
    assert digest == digest_of_told(told) == digest_of_told(json.loads(json.dumps(told)))
    whole["features"][1]["mean"] = 0.25
    assert excerpt_of(whole)["sha256"] != digest


@pytest.mark.timeout(120)
def test_page_and_report_of_a_statistics_run_show_what_it_found(tmp_path: Path) -> None:
    state = tmp_path / "s"
    assert main(["--task", "breast-cancer", "--simulate", "3", "--bins", "8", "--state", str(state)]) == 0
    written = json.loads((state / "statistics.json").read_text("utf-8"))
    with History(state) as history:
        before = history.version()
        shown = overview(history)["statistics"]
        (state / "statistics.json").touch()
        assert history.version() != before  # so an open page reads it again
    assert [row["name"] for row in shown["features"]] == [row["name"] for row in written["features"]]
    for row, whole in zip(shown["features"], written["features"], strict=True):
        assert {key: row[key] for key in ("count", "mean", "std", "min", "max")} == {
            key: whole[key] for key in ("count", "mean", "std", "min", "max")
        }
        assert row["histogram"]["counts"] == whole["histogram"]["counts"]
        assert row["quantiles"] == [quantile["value"] for quantile in whole["quantiles"]]
    assert (shown["levels"], shown["labels"]) == ([0.25, 0.5, 0.75], written["labels"])
    assert shown["sha256"] in (state / "report.html").read_text("utf-8")
    with served(tmp_path) as port, answer(port, "/run/s/statistics.json") as response:
        assert json.loads(response.read()) == written


@pytest.mark.timeout(60)
def test_a_site_that_sits_out_is_shown_without_an_update_and_with_its_reason(tmp_path: Path) -> None:
    flags = ["--simulate", "3", "--min-samples", "123"]  # they have 122 each
    assert main(["--task", "breast-cancer", *flags, "--state", str(tmp_path / "s")]) is ExitCode.TASK
    with History(tmp_path / "s") as history:
        rows = overview(history)["without_update"]
        assert history.refused() == []
    assert [row["round"] for row in rows] == [2, 2, 2, 1, 1, 1]
    assert {row["reason"] for row in rows} == {"it has 122 samples, and statistics are of sites with 123"}
    page = (tmp_path / "s" / "report.html").read_text("utf-8")
    assert "Workers without an update" in page
    assert rows[0]["reason"] in page


@pytest.mark.timeout(60)
def test_a_file_of_another_run_and_one_that_is_damaged_are_not_shown(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(["--task", "breast-cancer", "--simulate", "2", "--state", str(tmp_path / name)]) == 0
    shutil.copy(tmp_path / "one" / "statistics.json", tmp_path / "two")
    with History(tmp_path / "two") as history:
        assert overview(history)["statistics"] is None
        (tmp_path / "two" / "statistics.json").write_text('{"run_id": ', encoding="utf-8")
        assert overview(history)["statistics"] is None
