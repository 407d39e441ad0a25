"""Large models are digested by BLAKE3 as well, and what answers them by BLAKE3 alone; ledger and files have SHA-256."""

from typing import Any

import pytest
import torch
from blake3 import blake3
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, payload_of

from broker.states.tensors import State, digest_of, specs_of
from broker.wire.specs import kept

LARGE: State = {"w": torch.arange(2**16, dtype=torch.float32) / 2**16}
SMALL: State = {"w": torch.arange(2**16 - 1, dtype=torch.float32) / 2**16}
STEP: State = {"w": torch.full((2**16,), 0.5)}


def by_blake3(state: State) -> str:
    return blake3(kept(specs_of(state)).packed + payload_of(state)).hexdigest()


def answer(run: EmbeddedRun, **changes: Any) -> None:
    told = {"sha256": None, "blake3": by_blake3(STEP), "model_sha256": run.head.sha256} | changes
    run.fold_all([("a", STEP), ("b", STEP)], **told)


@pytest.mark.parametrize("places", [{}, {"inline_cap": 0, "part_bytes": 2**16}])
def test_a_large_model_has_both_digests_also_after_a_kill(begin: Begin, places: dict[str, int]) -> None:
    run = begin(StateTask(LARGE), rounds=4, **places)
    for _ in range(2):
        assert (run.head.sha256, run.head.blake3) == (digest_of(run.model), by_blake3(run.model))
        answer(run, blob_bytes=places.get("part_bytes"))
    again = run.crash().start()
    assert torch.equal(again.model["w"], LARGE["w"] + 1)
    assert (again.head.sha256, again.head.blake3) == (digest_of(again.model), by_blake3(again.model))
    assert again.closed("round, model_sha256")[-1] == (2, digest_of(again.model))


def test_a_small_model_has_sha256_alone(begin: Begin) -> None:
    head = begin(StateTask(SMALL), rounds=4).head
    assert (head.sha256, head.blake3) == (digest_of(SMALL), None)


@pytest.mark.parametrize("blob_bytes", [None, 2**16])
def test_an_update_that_is_not_of_its_digest_is_set_aside(begin: Begin, blob_bytes: int | None) -> None:
    run = begin(StateTask(LARGE), rounds=4, part_bytes=2**16)
    answer(run, blake3=by_blake3(LARGE), blob_bytes=blob_bytes)
    assert run.round == 1
    assert {"its body does not match its digest" in reason for reason in run.reasons} == {True}
    answer(run, blob_bytes=blob_bytes)
    assert run.round == 2


def test_an_update_by_sha256_counts_as_ever(begin: Begin) -> None:
    run = begin(StateTask(LARGE), rounds=4)
    answer(run, sha256=digest_of(STEP), blake3=None)
    assert torch.equal(run.model["w"], LARGE["w"] + 0.5)
