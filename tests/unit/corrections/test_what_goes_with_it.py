"""Corrections with other settings: those they are refused with, and those that they have to hold with."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from unit.aggregator.embedded_run import EmbeddedRun, StateTask
from unit.aggregator.sharded_run import ShardedRun, delta_of, names_of, some_state
from unit.corrections.federation import Federation, Parabola, pairs

from aggregator.pairs import PAIRS
from aggregator.settings import AggregatorSettings
from broker.wire.headers import counted
from broker.wire.headers.counted import MAX_COUNTED, hash64, last_counted, pack_counted, unpack_counted
from console.errors import StateError, TaskError
from fedmq.script_task import ScriptTask
from learning.task import Plan

EVERYBODY = (0, 1, 2, 3)
CLASHES = {
    "max_staleness": {"max_staleness": 1},
    "weighting": {"weighting": "samples"},
    "clip_norm": {"clip_norm": 1.0},
    "max_samples": {"max_samples": 10},
    "robust": {"robust": "median"},
    "server_optimizer": {"server_optimizer": "fedavgm"},
    "server_lr": {"server_lr": 0.5},
    "compression": {"compression": "topk:0.1"},
    "mu": {"mu": 0.1},
}


def test_every_row_of_the_table_is_tried() -> None:
    assert {pair.names[1] for pair in PAIRS if pair.names[0] == "correction"} == CLASHES.keys()


@pytest.mark.parametrize("setting", CLASHES)
def test_what_does_not_go_with_feddyn_is_refused_with_what_to_change(setting: str) -> None:
    with pytest.raises(ValidationError, match=r"--correction feddyn:alpha=0\.5 .*; (give|leave)"):
        AggregatorSettings.model_validate({"correction": "feddyn:alpha=0.5"} | CLASHES[setting])
    AggregatorSettings.model_validate({"correction": "none"} | CLASHES[setting])


def test_an_unknown_correction_or_parameter_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match="known are none, scaffold, feddyn, ditto"):
        AggregatorSettings(correction="mime")
    with pytest.raises(ValidationError, match="ditto has no parameter 'lambda'; it has lam"):
        AggregatorSettings(correction="ditto:lambda=1")


def test_a_run_does_not_go_on_with_another_correction(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="scaffold")
    run.run.aggregator.close()
    other = EmbeddedRun.make(run.run.folder, run.run.task, broker=run.run.broker, quorum="2", rounds=1000)
    with pytest.raises(StateError, match="with --correction scaffold, not none"):
        other.start()


@pytest.mark.parametrize("compression", ["float16", "int8"])
def test_what_is_carried_follows_from_what_the_aggregator_decodes(tmp_path: Path, compression: str) -> None:
    run = Federation.make(tmp_path, correction="scaffold", compression=compression)
    run.rounds_of(pairs(8))
    assert run.server_sum() == pytest.approx(run.sum_of_kept(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("corrects", [False, True])
def test_a_task_that_never_corrects_is_told_so(tmp_path: Path, corrects: bool) -> None:
    run = Federation.make(tmp_path, [Parabola(1, 1, corrects=corrects)], correction="scaffold", quorum=1)
    if corrects:
        run.answer(0)
        return
    with pytest.raises(TaskError, match=r"never called plan\.correct\(\).*after loss\.backward\(\)"):
        run.answer(0)


def test_ditto_is_not_for_a_script_which_trains_once(tmp_path: Path) -> None:
    task = Parabola(1, 1)
    task.trains_once = True  # type: ignore[attr-defined]
    run = Federation.make(tmp_path, [task], correction="ditto", quorum=1)
    with pytest.raises(TaskError, match="trains twice in a round, and a script's loop goes through once"):
        run.answer(0)


def test_a_script_trains_once() -> None:
    assert ScriptTask.trains_once


def test_a_run_without_a_correction_sends_no_word_of_it(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, quorum=4)
    run.rounds_of([EVERYBODY])
    head = run.run.head
    assert (head.correction, head.sets, head.counted, head.control_epoch) == (None, (), b"", 0)
    assert "correction" not in head.model_dump()


def test_the_counted_rounds_of_a_head_are_found_by_name() -> None:
    packed = pack_counted({7: 1, 2**64 - 1: 2**31})
    assert unpack_counted(packed) == {7: 1, 2**64 - 1: 2**31}
    assert last_counted(packed, "nobody") is None
    assert last_counted(b"", "nobody") is None


def test_every_worker_of_a_full_head_is_found_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_counted({hash64(f"site-{number}"): number for number in range(MAX_COUNTED)})
    looked_at = []

    def counting(packed: bytes, place: int) -> tuple[int, int]:
        looked_at.append(place)
        return entry(packed, place)

    entry = counted._entry
    monkeypatch.setattr(counted, "_entry", counting)
    assert [last_counted(packed, f"site-{number}") for number in range(0, MAX_COUNTED, 97)] == [
        *range(0, MAX_COUNTED, 97)
    ]
    looked_at.clear()
    assert last_counted(packed, "nobody") is None
    assert len(looked_at) <= 15  # of ten thousand


class Normed(nn.Module):
    """Trained and shared tensors of two dtypes, a buffer, an integer, and one that stays at home."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.wide = nn.Parameter(torch.zeros(5, dtype=torch.float64))
        self.head = nn.Linear(3, 1)


class NormedTask(Parabola):
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Normed()

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        assert isinstance(model, Normed)
        optimizer = torch.optim.SGD(model.parameters(), lr=plan.lr, momentum=plan.momentum)
        random = torch.Generator().manual_seed(plan.seed % 1000)
        for _ in range(3):
            optimizer.zero_grad()
            inputs = torch.randn(8, 3, generator=random) + self.e
            outputs = model.head(model.norm(model.body(inputs)))
            ((outputs - self.h).square().mean() + (model.wide - self.e).square().sum()).backward()
            plan.correct(model.parameters())
            optimizer.step()
        return {"num_samples": 8.0, "update_norm1": plan.update_norm1(3)}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {}


@pytest.mark.parametrize("inline_cap", [2**23, 64])
def test_all_kinds_of_tensors_travel_beside_their_control_variates(tmp_path: Path, inline_cap: int) -> None:
    tasks = [NormedTask(h, e) for h, e in ((1.0, 0.0), (2.0, 1.0))]
    fields = {"correction": "scaffold", "shared": "!head.*", "inline_cap": inline_cap, "part_bytes": 64}
    run = Federation.make(tmp_path, tasks, **fields, of=NormedTask(0, 0))
    for _ in range(4):
        run.answer(0, 1)
    names = {name.removeprefix("control/") for name in run.run.model if name.startswith("control/")}
    assert names == {"body.weight", "body.bias", "norm.weight", "norm.bias", "wide"}
    kept = [run.carried(name).sets["correction"] for name in run.tasks]
    for name in names:
        mean = sum(state[name][0] for state in kept) / 2
        torch.testing.assert_close(run.run.model[f"control/{name}"], mean.to(torch.float32))  # type: ignore[union-attr]
    run.crash()
    assert run.run.round == 5
    run.answer(0, 1)
    assert run.run.round == 6


def test_partial_sums_give_the_same_bits(tmp_path: Path) -> None:
    names = [name for shard in range(2) for name in names_of(shard, 2, 2)]
    fields = {"quorum": "4", "rounds": 3, "correction": "scaffold"}
    alone = EmbeddedRun.make(tmp_path / "alone", StateTask(some_state(0)), **fields).start()
    run = ShardedRun.make(tmp_path / "sharded", num_shards=2, **fields).start()
    for number in range(1, 4):
        for place, name in enumerate(names):
            changes = {"figures": {"update_norm1": 3.0 + place}, "is_fresh": number == 2 and place == 1}
            alone.send(name, delta_of(name, number), **changes)
            run.send(name, delta_of(name, number), **changes)
        alone.settle()
        run.settle()
        run.pass_time()
    assert (run.root.head.control_epoch, alone.head.control_epoch) == (1, 1)
    assert run.root.head.counted == alone.head.counted
    assert run.root.head.sha256 == alone.head.sha256
    assert run.root.summary["final"]["model_sha256"] == alone.summary["final"]["model_sha256"]
    for each in (alone, run.root):
        each.aggregator.close()


class Adaptive(Parabola):
    """Its optimizer is another one than SGD, so it returns no figure."""

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        plan.correct(model.parameters())
        return {"num_samples": 1.0}


def test_where_no_update_norm1_is_defined_scaffold_names_the_way_out_and_feddyn_needs_none(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, [Adaptive(1, 1)], correction="scaffold", quorum=1)
    with pytest.raises(TaskError, match=r"must return update_norm1.*nor --correction feddyn needs it"):
        run.answer(0)
    other = Federation.make(tmp_path / "feddyn", [Adaptive(1, 1)], correction="feddyn", quorum=1)
    other.answer(0)
    assert other.run.round == 2
