"""A run whose models travel in bfloat16: the aggregator keeps the model, workers read it rounded."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of

from broker.memory import MemoryTransport
from broker.states.downlink import ModelForm
from broker.states.model_body import read_model
from broker.states.tensors import State, digest_of
from broker.wire.codec import decode
from broker.wire.messages import ModelHead
from broker.wire.topology import Topology
from console.errors import StateError
from worker.config import WorkerConfig
from worker.service import Worker

STEP = 2.0**-12
"""Of a weight of 1, a sixteenth of what bfloat16 can tell apart."""
WEIGHT = torch.ones(3, 2)
BUFFERS = ("mean", "count", "exact")


def model() -> State:
    return state_of(
        weight=WEIGHT.clone(),
        bias=torch.tensor([0.1, 0.2]),
        mean=torch.full((3, 2), 1.0),
        count=torch.tensor(5),
        exact=torch.full((2, 2), 0.1, dtype=torch.float64),
    )


def task() -> StateTask:
    return StateTask(model(), buffers=BUFFERS)


def delta(step: float = STEP) -> State:
    state = {name: torch.full_like(tensor, step) for name, tensor in model().items() if name != "count"}
    return state | {"count": torch.tensor(1)}


def read(run: EmbeddedRun) -> State:
    """The newest model as a worker reads it, verified."""
    head, payload = decode(run.broker.heads[-1], ModelHead)
    return read_model(head, payload, run.site, trained=("weight", "bias"))


def kept(run: EmbeddedRun) -> State:
    return load_file(run.folder / "models" / "last.safetensors")


def rounded(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16).to(torch.float32)


def answer(run: EmbeddedRun, *, rounds: int, **changes: Any) -> None:
    for _ in range(rounds):
        run.fold_all([("a", delta()), ("b", delta())], model_sha256=run.head.sha256, **changes)


def test_workers_read_the_model_rounded_and_the_head_has_the_digest_of_that(begin: Begin) -> None:
    run = begin(task(), rounds=9, downlink="bfloat16")
    answer(run, rounds=5)
    state, whole = read(run), kept(run)
    assert run.head.downlink == "bfloat16"
    assert digest_of(state) == run.head.sha256 != digest_of(whole)
    for name in ("weight", "mean"):
        assert torch.equal(state[name], rounded(whole[name]))
        assert not torch.equal(state[name], whole[name])
    assert all(torch.equal(state[name], whole[name]) for name in ("bias", "count", "exact"))
    assert (state["count"].item(), whole["exact"][0, 0].item()) == (10, pytest.approx(0.1 + 5 * STEP, rel=1e-12))


def test_what_rounding_takes_does_not_add_up(begin: Begin) -> None:
    """Each round moves the weights by less than workers can see; forty of them, by what forty make."""
    run = begin(task(), rounds=99, downlink="bfloat16")
    answer(run, rounds=7)
    assert torch.equal(read(run)["weight"], WEIGHT)
    answer(run, rounds=33)
    assert torch.equal(kept(run)["weight"], WEIGHT + 40 * STEP)
    assert torch.equal(read(run)["weight"], rounded(WEIGHT + 40 * STEP))
    assert not torch.equal(read(run)["weight"], WEIGHT)


def test_a_server_optimizer_steps_the_kept_model_with_what_it_remembers(begin: Begin) -> None:
    run = begin(task(), rounds=9, downlink="bfloat16", server_optimizer="fedavgm:momentum=0.5")
    answer(run, rounds=3)
    assert torch.equal(kept(run)["weight"], WEIGHT + STEP * (1 + 1.5 + 1.75))


def test_an_update_from_the_kept_model_is_refused(begin: Begin) -> None:
    run = begin(task(), rounds=9, downlink="bfloat16")
    answer(run, rounds=1)
    run.fold_all([("a", delta())], model_sha256=digest_of(kept(run)))
    assert "trained from model" in run.reasons[-1]


@pytest.mark.parametrize("inline_cap", [0, 2**20])
def test_a_killed_aggregator_publishes_the_same_bits(begin: Begin, inline_cap: int) -> None:
    run = begin(task(), rounds=9, downlink="bfloat16", inline_cap=inline_cap, part_bytes=16)
    answer(run, rounds=3)
    before, sha256 = read(run), run.head.sha256
    run.broker.heads.clear()
    again = run.crash().start()
    assert (again.head.sha256, digest_of(read(again))) == (sha256, digest_of(before))
    answer(again, rounds=1)
    assert torch.equal(kept(again)["weight"], WEIGHT + 4 * STEP)


def test_a_model_that_is_small_only_in_bfloat16_travels_in_its_head(begin: Begin) -> None:
    whole = ModelForm(begin(task(), rounds=2).head.tensors, "none").num_bytes
    small = ModelForm(begin(task(), rounds=2, folder="b").head.tensors, "bfloat16").num_bytes
    run = begin(task(), rounds=2, downlink="bfloat16", inline_cap=small, folder="c")
    assert (small < whole, run.head.blob) == (True, None)
    assert begin(task(), rounds=2, inline_cap=small, folder="d").head.blob is not None


def test_taken_over_from_the_stream_it_goes_on_from_what_workers_read_and_says_so(
    begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(task(), rounds=9, downlink="bfloat16")
    answer(run, rounds=5)
    state = read(run)
    with caplog.at_level(logging.WARNING):
        other = run.taken_over(tmp_path / "other").start()
    assert "were in the other state directory alone" in caplog.text
    assert digest_of(read(other)) == digest_of(state) == other.head.sha256
    answer(other, rounds=1)
    assert torch.equal(kept(other)["weight"], state["weight"] + STEP)


@pytest.mark.parametrize(("began", "goes_on"), [("bfloat16", "none"), ("none", "bfloat16")])
def test_a_run_keeps_the_downlink_that_it_began_with(begin: Begin, tmp_path: Path, began: str, goes_on: str) -> None:
    run = begin(task(), rounds=9, downlink=began)
    run.aggregator.close()
    other = EmbeddedRun.make(run.folder, task(), broker=run.broker, rounds=9, downlink=goes_on)
    with pytest.raises(StateError, match=f"with --downlink {began}, not {goes_on}"):
        other.start()
    other.aggregator.close()
    other = EmbeddedRun.make(tmp_path / "x", task(), broker=run.broker, rounds=9, downlink=goes_on, take_over=True)
    with pytest.raises(StateError, match=f"has --downlink {began}"):
        other.start()
    other.aggregator.close()


def test_a_worker_trains_from_what_the_digest_says(begin: Begin) -> None:
    run = begin(task(), rounds=9, downlink="bfloat16", quorum="1")
    answer(run, rounds=1)
    seen: list[str] = []
    problem = task()
    problem.metrics = lambda module: seen.append(digest_of(dict(module.state_dict()))) or {}  # type: ignore[func-returns-value]
    worker = Worker(
        WorkerConfig(name="w", topology=Topology("updates"), inline_cap=2**20), problem, MemoryTransport(run.broker)
    )
    worker.start()
    worker.step()
    assert seen == [run.head.sha256]
