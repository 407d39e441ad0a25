"""What page and report draw: the timeline without pauses, the map of sites and rounds, names and paths."""

import math
from pathlib import Path
from typing import Any

import pytest
from long_run import PAUSE_S, ROUND_S, write_long_run

from aggregator import History
from aggregator.history import overview, portable, without_folder
from aggregator.history.natural_order import natural_order
from aggregator.history.sites import site_map, sites_in, spread_of
from aggregator.history.timeline import timeline


def update(number: int, arrived: float, train_s: float = 5.0, worker: str = "a") -> dict[str, Any]:
    return {
        "round": number,
        "worker": worker,
        "received_at": arrived,
        "train_s": train_s,
        "queue_s": 1.0,
        "verdict": "folded",
    }


def closed(number: int, opened_at: float, closed_at: float) -> dict[str, Any]:
    return {"round": number, "opened_at": opened_at, "closed_at": closed_at, "closed_by": "quorum"}


def test_workers_are_counted_as_people_do() -> None:
    names = ["worker-10", "worker-2", None, "b", "worker-2a", "2", "worker-1", "worker-²"]
    assert sorted(names, key=natural_order) == [
        "2",
        "b",
        "worker-1",
        "worker-2",
        "worker-2a",
        "worker-10",
        "worker-²",
        None,
    ]


def test_a_pause_is_left_out_of_the_timeline_and_said_with_its_length() -> None:
    rounds = [closed(1, 0.0, 10.0), closed(2, 10.0, 1010.0)]
    figure = timeline(rounds, [update(1, 9.0), update(2, 1009.0)])
    ((begin, end, seconds),) = figure["pauses"]
    assert begin == pytest.approx(end)
    assert seconds == pytest.approx(990.0, abs=10.0)
    assert figure["length"] < 40.0
    assert [number for _, number, *_ in figure["ends"]] == [1, 2]


def test_a_worker_that_began_long_before_does_not_stretch_the_timeline() -> None:
    figure = timeline([closed(7, 100.0, 110.0)], [update(7, 109.0), update(7, 109.5, train_s=3600.0, worker="early")])
    assert figure["length"] == pytest.approx(10.0, abs=0.1)
    assert min(bar[1] for bar in figure["bars"]) == 0.0
    assert figure["lanes"] == ["a", "early"]


def test_a_timeline_of_nothing_is_empty() -> None:
    assert timeline([], [])["bars"] == []
    assert timeline([closed(1, 0.0, 1.0)], [])["length"] == 1.0


def test_the_map_has_a_letter_a_round_for_each_site_and_the_levels_of_its_metric() -> None:
    decided = [(1, 0, "a", "folded", 0.3), (1, 0, "b", "late", 0.9), (2, 1, "a", "refused", None)]
    decided += [(2, 1, "a", "folded", 0.0), (3, 2, "a", "diverged", 1.0), (3, 2, "b", "folded", 0.5)]
    decided += [(2, None, "nobody", "refused", None), (3, 3, "b", "measured", math.nan), (9, 8, "a", "folded", 0.1)]
    sites = sites_in(decided, ["a", "b"], first=1, last=3)
    figure = site_map(sites, first=1, last=3, metric="accuracy")
    assert figure["marks"] == ["ffn", "l f"]
    assert figure["levels"] == ["0o ", " P "]
    assert spread_of(sites) == {2: (0.5, 1.0)}
    assert sites["a"].values == {1: 0.0, 2: 1.0}  # of the model after that round
    assert sites["a"].of("max") == {"newest": 1.0, "best": 1.0, "worst": 0.0}
    assert sites["a"].of("min") == {"newest": 1.0, "best": 0.0, "worst": 1.0}


def test_a_long_run_is_of_bounded_size_with_its_best_round_and_its_worst_site(tmp_path: Path) -> None:
    with History(write_long_run(tmp_path / "run", rounds=30, workers=12)) as history:
        shown = overview(history)
    assert any(label.startswith("best accuracy, round ") for _, label in shown["tiles"])
    told = [{"round": 10, "text": "fl-run set lr=0.01"}, {"round": 11, "text": "lr 0.05 → 0.01"}]
    assert shown["changes"] == shown["figures"]["curve accuracy"]["marks"] == told
    assert [row["worker"] for row in shown["workers"]][:3] == ["worker-0", "worker-1", "worker-2"]
    assert min(shown["workers"], key=lambda row: row["measured"]["newest"])["worker"] == "worker-11"
    assert shown["figures"]["timeline"]["length"] < 21 * ROUND_S
    assert [seconds for *_, seconds in shown["figures"]["timeline"]["pauses"]] == [pytest.approx(PAUSE_S, rel=0.05)]
    band = shown["figures"]["curve accuracy"]["band"]
    assert band["x"] == list(range(1, 30))  # nobody has measured the last model
    assert max(high - low for low, high in zip(band["low"], band["high"], strict=True)) > 0.3


def test_of_a_path_only_its_last_part_is_shown() -> None:
    settings = {"state": "/srv/fed/run-7", "task": "/home/me/t.py:Task", "queue": "updates", "lr": 0.1, "n": None}
    assert portable(settings) == {"state": "run-7", "task": "t.py:Task", "queue": "updates", "lr": 0.1, "n": None}
    assert portable([r"C:\runs\one", "file:///x/mlruns", "http://mlflow:5000/", "examples/own_task.py"]) == [
        "one",
        "mlruns",
        "http://mlflow:5000/",
        "examples/own_task.py",
    ]
    assert without_folder("/srv/fed/run-7/ledger.sqlite is bad", Path("/srv/fed/run-7")) == "run-7/ledger.sqlite is bad"
