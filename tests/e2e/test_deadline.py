"""At its deadline a round does what --on-short says."""

import pytest
import torch
from federation import Federation
from torch import nn

from broker.states.tensors import digest_of

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)  # of which an idle machine needs ten seconds

# The round's clock runs while the aggregator looks for an older head on the new stream, for up to two seconds.
DEADLINE = ("--deadline-s", "3")
WANTS_THREE_NEEDS_TWO = ("--quorum", "3", "--min-updates", "2")


def initial_sha256() -> str:
    """The digest of the model that tasks/gated.py begins with, under --seed 0."""
    torch.manual_seed(0)
    return digest_of(nn.Linear(3, 2).state_dict())


def test_enough_updates_below_the_quorum_close_the_round_at_its_deadline(federation: Federation) -> None:
    workers = [federation.worker(name) for name in ("one", "two")]
    for worker in workers:
        worker.says("waiting for the aggregator")
    aggregator = federation.aggregator(*WANTS_THREE_NEEDS_TWO, *DEADLINE, "--rounds", "1")

    assert [aggregator.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
    (only,) = federation.summary["rounds"]
    assert (only["closed_by"], only["folded"]) == ("deadline", 2)
    assert only["seconds"] >= 3


def test_extend_waits_on_and_closes_when_there_are_enough(federation: Federation) -> None:
    worker = federation.worker("one")
    worker.says("waiting for the aggregator")
    aggregator = federation.aggregator(*WANTS_THREE_NEEDS_TWO, *DEADLINE, "--on-short", "extend", "--rounds", "1")
    aggregator.says("round 1: deadline passed; waits for 3 updates (quorum 3, at least 2); 1 folded;")
    aggregator.says("workers present: one")

    second = federation.worker("two")

    assert [aggregator.ends(), worker.ends(), second.ends()] == [0, 0, 0]
    (only,) = federation.summary["rounds"]
    assert (only["closed_by"], only["folded"]) == ("deadline", 2)


def test_accept_closes_with_what_is_there(federation: Federation) -> None:
    worker = federation.worker("one")
    worker.says("waiting for the aggregator")
    aggregator = federation.aggregator(*WANTS_THREE_NEEDS_TWO, *DEADLINE, "--on-short", "accept", "--rounds", "1")

    assert [aggregator.ends(), worker.ends()] == [0, 0]
    (only,) = federation.summary["rounds"]
    assert (only["closed_by"], only["folded"]) == ("short", 1)
    assert only["model_sha256"] != initial_sha256()


def test_accept_with_no_update_at_all_keeps_the_model(federation: Federation) -> None:
    aggregator = federation.aggregator("--deadline-s", "0.5", "--on-short", "accept", "--rounds", "2")

    assert aggregator.ends() == 0
    assert [row["closed_by"] for row in federation.summary["rounds"]] == ["short", "short"]
    assert federation.summary["final"]["model_sha256"] == initial_sha256()


def test_abandon_drops_what_is_there_and_says_so_in_the_ledger(federation: Federation) -> None:
    worker = federation.worker("one")
    worker.says("waiting for the aggregator")
    aggregator = federation.aggregator(*WANTS_THREE_NEEDS_TWO, *DEADLINE, "--on-short", "abandon", "--rounds", "1")

    assert [aggregator.ends(), worker.ends()] == [0, 0]
    (only,) = federation.summary["rounds"]
    assert (only["closed_by"], only["folded"]) == ("abandoned", 0)
    assert federation.verdicts("one", 1) == ["abandoned"]
    assert federation.summary["final"]["model_sha256"] == initial_sha256()
