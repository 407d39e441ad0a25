"""Exact sums of any range, and extremes: the same bits in any order, with duplicates, broken updates and kills."""

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embedded_run import AT_ONCE_S, EmbeddedRun, Holder, payload_of, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aggregator.rounds.accumulator import Key
from aggregator.senders.admission import Allowed
from aggregator.senders.exclusion import Excluding
from aggregator.sums import Totals
from aggregator.sums.planes import Planes
from broker.states.tensors import specs_of
from console.errors import SettingsError, TaskError, UnfitMessage

BEYOND = Fraction(2**1024 - 2**970)
"""What is rounded to no float64 any more."""
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)
OPERATIONS: dict[str, Any] = {"sum": "sum", "count": "sum", "low": "min", "high": "max"}
SITES = {
    "a": state_of(sum=[1e8, 1e-300], count=[1, 2], low=[-0.0, 3.0], high=[0.0, 3.0]),
    "b": state_of(sum=[1.0, 1e300], count=[2**40, 5], low=[0.0, 1.0], high=[-0.0, 9.0]),
    "c": state_of(sum=[-1e8, -1e300], count=[-1, 1], low=[math.inf, 2.0], high=[-math.inf, 2.0]),
}


class Adding:
    """What sites give becomes the model."""

    operations = OPERATIONS

    def __init__(self) -> None:
        self.initial = state_of(sum=[0.0, 0.0], count=[0, 0], low=[0.0, 0.0], high=[0.0, 0.0], rounds=[0])

    def model(self) -> nn.Module:
        return Holder(self.initial)

    def sums(self, model: nn.Module, plan: object) -> Mapping[str, Any]:
        raise NotImplementedError

    def apply(self, model: nn.Module, sums: Mapping[str, Tensor]) -> None:
        state = model.state_dict()
        for name, total in sums.items():
            state[name].copy_(total)
        state["rounds"] += 1

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return {}


@given(st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=8), st.randoms())
@settings(max_examples=200, deadline=None)
def test_a_sum_is_rounded_once_whatever_its_range_and_order(rows: list[list[float]], random: Any) -> None:
    planes = Planes(3)
    for row in random.sample(rows, len(rows)):
        planes.add(np.array(row))
    exact = [sum(map(Fraction, column)) for column in zip(*rows, strict=True)]
    if any(abs(total) >= BEYOND for total in exact):
        with pytest.raises(OverflowError):
            planes.floats()
    else:
        assert planes.floats().tolist() == [float(total) for total in exact]


@given(st.lists(FLOATS, min_size=2, max_size=8))
@settings(deadline=None)
def test_what_is_taken_out_of_a_sum_leaves_nothing(values: list[float]) -> None:
    planes, without = Planes(1), Planes(1)
    without.add(np.array(values[:1]))
    for value in values:
        planes.add(np.array([value]))
    for value in values[1:]:
        planes.add(np.array([value]), sign=-1)
    assert planes.floats() == without.floats()


def test_integers_are_summed_as_integers() -> None:
    planes = Planes(2)
    for values in ([2**61, 1], [2**61, -(2**40)], [2**61, 3]):
        planes.add(np.array(values))
    assert planes.integers().tolist() == [3 * 2**61, 4 - 2**40]
    planes.add(np.array([2**61, 0]))
    with pytest.raises(OverflowError):
        planes.integers()


def totals_of(*states: Mapping[str, Tensor]) -> Totals:
    totals = Totals(specs_of(states[0]), OPERATIONS)
    for number, state in enumerate(states):
        totals.begin_update(Key(1, str(number)))
        totals.add(0, payload_of(state), 7.0)
        totals.end_update()
    return totals


def add_in_pieces(totals: Totals, payload: bytes) -> None:
    for offset in range(0, len(payload), 8):
        totals.add(offset, payload[offset : offset + 8], 1.0)


@pytest.mark.parametrize(("name", "bad"), [("sum", math.inf), ("low", math.nan), ("count", 2**62)])
def test_an_update_with_a_bad_value_leaves_no_trace(name: str, bad: float) -> None:
    totals = totals_of(SITES["a"], SITES["b"])
    wrong = dict(SITES["c"]) | {name: torch.tensor([bad, 0], dtype=SITES["c"][name].dtype)}
    payload = payload_of(wrong)
    totals.begin_update(Key(1, "c"))
    with pytest.raises(UnfitMessage, match=f"'{name}'"):
        add_in_pieces(totals, payload)
    totals.end_update()
    for offset in range(0, len(payload), 8):
        totals.remove(offset, payload[offset : offset + 8], 1.0)
    totals.end_removal(Key(1, "c"))
    expected = totals_of(SITES["a"], SITES["b"]).totals()
    assert all(torch.equal(total, expected[name]) for name, total in totals.totals().items())


def run(folder: Path, **changes: Any) -> EmbeddedRun:
    return EmbeddedRun.make(folder, Adding(), quorum="3", rounds=2, commit_every_s=AT_ONCE_S, **changes).start()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
@pytest.mark.parametrize("killed_after", [None, 1, 2])
def test_the_same_sites_give_the_same_bits(order: str, killed_after: int | None, tmp_path: Path) -> None:
    one = run(tmp_path)
    for number, worker in enumerate(order):
        one.fold_all([(worker, SITES[worker]), (worker, SITES[worker])])  # each is delivered twice
        if number + 1 == killed_after:
            one = one.crash().start()
    model = one.model
    assert one.round == 2
    assert one.head.purpose == "sums"
    assert one.head.operations == OPERATIONS
    assert model["sum"].tolist() == [1.0, 1e-300]
    assert model["count"].tolist() == [2**40, 8]
    assert model["low"].view(torch.int64).tolist() == torch.tensor([0.0, 1.0]).double().view(torch.int64).tolist()
    assert model["high"].view(torch.int64).tolist() == torch.tensor([0.0, 9.0]).double().view(torch.int64).tolist()
    assert model["rounds"].tolist() == [1]


@pytest.mark.timeout(60)
def test_a_total_begins_anew_with_each_round(tmp_path: Path) -> None:
    one = run(tmp_path)
    one.fold_all(SITES.items())
    one.fold_all(SITES.items())
    assert one.aggregator.is_finished
    assert one.model["count"].tolist() == [2**40, 8]
    assert one.model["rounds"].tolist() == [2]


@pytest.mark.parametrize(
    "settings",
    [
        {"compression": "int8"},
        {"shards": 2},
        {"downlink": "bfloat16"},
        {"max_staleness": 1},
        {"server_lr": 0.5},
        {"shared": "!low"},
        {"robust": "median", "quorum": "3"},
        {"weighting": "uniform"},
        {"clip_norm": 1.0},
        {"max_samples": 5},
        {"sample": "2"},
        {"sample_schedule": "linear:0.9:0.1:10"},
    ],
)
def test_what_belongs_to_training_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="summed up, not trained"):
        EmbeddedRun.make(tmp_path, Adding(), **settings)


def test_an_operation_without_a_tensor_is_named(tmp_path: Path) -> None:
    task = Adding()
    task.operations = OPERATIONS | {"nothing": "sum"}
    with pytest.raises(TaskError, match="'nothing', which is no tensor"):
        EmbeddedRun.make(tmp_path, task).start()


class AddingOnly(Adding):
    """Sums alone, which can be taken back."""

    operations = {"sum": "sum", "count": "sum"}  # noqa: RUF012

    def __init__(self) -> None:
        self.initial = state_of(sum=[0.0, 0.0], count=[0, 0], rounds=[0])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_site_that_leaves_the_list_is_out_of_the_sum_as_if_it_had_never_come(is_killed: bool, tmp_path: Path) -> None:
    allowed = tmp_path / "sites.txt"
    given = {name: {key: site[key] for key in ("sum", "count")} for name, site in SITES.items()}
    made: dict[str, EmbeddedRun] = {}
    for name, workers in (("disturbed", "abc"), ("undisturbed", "ac")):
        fields = {"quorum": "9", "min_updates": 1, "deadline_s": 100.0, "commit_every_s": AT_ONCE_S, "rounds": 2}
        allowed.write_text("a\nb\nc\n", encoding="utf-8")
        one = EmbeddedRun.make(tmp_path / name, AddingOnly(), workers_allowed=str(allowed), **fields)
        one.aggregator._course.admission = Excluding(Allowed(str(allowed), clock=one.clock))
        one.start().fold_all([(worker, given[worker]) for worker in workers])
        assert one.num_folded == len(workers)
        allowed.write_text("a\nc\n", encoding="utf-8")
        if is_killed:
            one = one.crash()
            one.aggregator._course.admission = Excluding(Allowed(str(allowed), clock=one.clock))
            one.start()
        for _ in range(2):
            one.pass_time(1.0)
        one.pass_time(100.0)
        made[name] = one
    assert [row for row in made["disturbed"].verdicts() if row[1] == "withdrawn"] == [("b", "withdrawn")]
    assert made["disturbed"].model["count"].tolist() == [0, 3]
    assert made["disturbed"].model["sum"].tolist() == [0.0, -1e300]
    digests = {one.query("SELECT model_sha256 FROM rounds WHERE round = 1")[0] for one in made.values()}
    assert len(digests) == 1
    for one in made.values():
        one.aggregator.close()
