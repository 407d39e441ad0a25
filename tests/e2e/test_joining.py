"""Workers come when they like, and the run takes them as they come."""

import json
from pathlib import Path

import numpy as np
import pytest
from federation import DEAF, Federation

from learning import Site
from learning.loading import load_task

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)  # of which an idle machine needs ten seconds

# What keeps the ledger close behind the events, so that tests can wait for them there.
AT_ONCE = ("--commit-every-s", "0.05")


def test_a_worker_that_starts_in_mid_round_counts_in_that_round(federation: Federation) -> None:
    aggregator = federation.aggregator("--rounds", "1", "--quorum", "2", *AT_ONCE)
    early = federation.worker("early")
    federation.wait_for_verdict("folded", "early", 1)

    late = federation.worker("late")

    assert [aggregator.ends(), early.ends(), late.ends()] == [0, 0, 0]
    assert federation.folded() == [(1, "early"), (1, "late")]
    assert federation.summary["rounds"][0]["closed_by"] == "quorum"
    assert "round   1 →" in late.said


def test_an_aggregator_without_workers_says_what_it_waits_for_and_goes_on_when_one_comes(
    federation: Federation,
) -> None:
    aggregator = federation.aggregator("--rounds", "2")
    aggregator.says("round 1: waits for 1 updates (quorum 100% of those present, at least 1); 0 folded;")
    aggregator.says("workers present: none")

    worker = federation.worker("only")

    assert [aggregator.ends(), worker.ends()] == [0, 0]
    assert federation.folded() == [(1, "only"), (2, "only")]


def test_a_worker_that_is_there_before_the_aggregator_waits_and_takes_part(federation: Federation) -> None:
    worker = federation.worker("first")
    worker.says(f"no queue '{federation.queue}' there yet; waiting for the aggregator")

    aggregator = federation.aggregator("--rounds", "2", "--quorum", "1")

    assert [aggregator.ends(), worker.ends()] == [0, 0]
    assert federation.folded() == [(1, "first"), (2, "first")]


def test_a_round_closes_without_a_slow_worker_whose_update_is_then_late_and_which_goes_on_with_the_newest_model(
    federation: Federation,
) -> None:
    gates = federation.gates
    gates.hold("slow", 1)
    gates.hold("quick", 3)
    aggregator = federation.aggregator("--rounds", "3", "--quorum", "1", "--grace-s", "0", *AT_ONCE, task=DEAF)
    slow = federation.worker("slow", task=DEAF)
    gates.wait_for("slow", 1)
    quick = federation.worker("quick", task=DEAF)
    gates.wait_for("quick", 3)

    gates.release("slow", 1)

    federation.wait_for_verdict("late", "slow", 1)
    ((reason, folded_in),) = federation.rows(
        "SELECT reason, round FROM updates WHERE verdict = 'late' AND base_round = 1"
    )
    assert (reason, folded_in) == ("round 1 is closed; the open one is 3", 3)
    assert [aggregator.ends(), slow.ends()] == [0, 0]
    assert federation.folded() == [(1, "quick"), (2, "quick"), (3, "slow")]
    assert federation.summary["rounds"][2]["late"] >= 1
    gates.release("quick", 3)
    assert quick.ends() == 0


def test_a_slow_worker_that_asks_stops_in_mid_training_and_takes_the_newest_model(federation: Federation) -> None:
    gates = federation.gates
    gates.hold("slow", 1)
    gates.hold("quick", 3)
    aggregator = federation.aggregator("--rounds", "3", "--quorum", "1", *AT_ONCE)
    slow = federation.worker("slow")
    gates.wait_for("slow", 1)
    quick = federation.worker("quick")

    slow.says("round   1: is over; training stopped after")

    assert [aggregator.ends(), slow.ends(), quick.ends()] == [0, 0, 0]
    assert federation.verdicts("slow", 1) == []
    assert (3, "slow") in federation.folded()


def test_two_workers_under_one_name_are_told_so_and_count_once(federation: Federation) -> None:
    gates = federation.gates
    for name in ("twin", "other"):
        gates.hold(name, 1)
    aggregator = federation.aggregator("--rounds", "2", "--quorum", "2", *AT_ONCE)
    twins = [federation.worker("twin", "--presence-every-s", "0.2") for _ in range(2)]
    other = federation.worker("other")
    gates.wait_for("twin", 1, num_processes=2)

    aggregator.says(
        "two workers go by the name 'twin'; each round counts only one of them; start one with another --name"
    )
    gates.release("twin", 1)
    federation.wait_for_verdict("duplicate", "twin", 1)
    for twin in twins:
        twin.says("another worker goes by the name 'twin' too")
    gates.release("other", 1)

    assert [aggregator.ends(), other.ends(), *(twin.ends() for twin in twins)] == [0, 0, 0, 0]
    assert federation.folded() == [(1, "other"), (1, "twin"), (2, "other"), (2, "twin")]
    assert federation.verdicts("twin", 1) == ["folded", "duplicate"]
    assert federation.summary["rounds"][0]["duplicate"] == 1


def test_workers_that_stay_answer_for_statistics_and_then_train_scaled_alike(federation: Federation) -> None:
    task = f"{Path(__file__).parents[2] / 'examples' / 'raw_features.py'}:task"
    known, flags = federation.folder / "known", ("--quorum", "2")
    killed = federation.statistics(*flags, task=task, state=known)
    workers = [federation.worker("0", "--stay", "--site", "0/2", task=task)]
    workers[0].says("round   1 →")
    killed.kill()
    workers.append(federation.worker("1", "--stay", "--site", "1/2", task=task))
    assert federation.statistics(*flags, task=task, state=known).ends() == 0

    figures = json.loads((known / "statistics.json").read_text(encoding="utf-8"))
    sites = [load_task(task, Site(name=f"{index}", index=index, num_sites=2)) for index in range(2)]
    pooled = np.concatenate([site.split.train[0].double().numpy() for site in sites])  # type: ignore[attr-defined]
    assert (figures["num_sites"], figures["num_samples"]) == (2, len(pooled))
    assert [feature["mean"] for feature in figures["features"]] == pytest.approx(pooled.mean(axis=0), abs=1e-9)
    assert [feature["std"] for feature in figures["features"]] == pytest.approx(pooled.std(axis=0), abs=1e-9)

    told = ("--statistics", str(known / "statistics.json"), "--rounds", "5", "--run", "training")
    assert federation.aggregator(*flags, *told, task=task).ends() == 0
    assert federation.summary["final"]["metrics"]["accuracy"] > 0.9
    for worker in workers:
        worker.terminate()
