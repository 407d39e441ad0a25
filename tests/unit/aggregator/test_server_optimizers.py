"""Server optimizers against traces computed apart from them: as pure functions, and through a run with its files."""

import importlib.util
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from unit.aggregator.embedded_run import AT_ONCE_S, EmbeddedRun, StateTask, state_of

from aggregator.algorithms import FedAvg, RoundFacts, ServerOptimizer, Step
from aggregator.algorithms.named import STEPS
from aggregator.settings import AggregatorSettings
from aggregator.state.ledger import FoldedUpdate
from broker.states.tensors import State
from broker.wire.messages import LocalTraining
from learning.task import Plan
from simulation import simulate

Begin = Callable[..., EmbeddedRun]

TRACES: dict[str, tuple[str, float, Sequence[float], Sequence[float]]] = {
    "FedAvgM": ("fedavgm:momentum=0.9", 1.0, (1, 0.5, -0.25), (1.0, 2.4, 3.41)),
    "DiLoCo": ("diloco:momentum=0.9", 0.7, (1, 0.5, -0.25), (1.33, 2.562, 3.0233)),
    "FedAdagrad, beta1 0": (
        "fedadagrad:v0=0",
        0.1,
        (1, 0.5, -0.25),
        (0.099900099900, 0.144581495195, 0.122778737179),
    ),
    "FedAdagrad, beta1 0.9": (
        "fedadagrad:beta1=0.9,v0=0",
        0.1,
        (1, 0.5, -0.25),
        (0.009990009990, 0.022500800673, 0.031309114911),
    ),
    "FedYogi": ("fedyogi:v0=0", 0.1, (1, 0.5, -0.25), (0.099009900990, 0.223119636509, 0.310516799186)),
    "FedAdam": ("fedadam:v0=0", 0.1, (1, 0.5, -0.25), (0.099009900990, 0.223614628919, 0.311760671381)),
    "FedAdam, v0 tau^2": ("fedadam", 0.1, (1, 0.5, -0.25), (0.099005048883, 0.223604896529, 0.311747653322)),
    "FedAdam, corrected": (
        "fedadam:v0=0,bias_correction=true",
        0.1,
        (1, 0.5, -0.25),
        (0.099009900990, 0.191523900922, 0.247579508393),
    ),
    "FedAdam, fading": ("fedadam:v0=0", 0.1, (1, 0, 0), (0.099009900990, 0.188563259248, 0.269563259248)),
    "FedAMS, fading": ("fedams:v0=0", 0.1, (1, 0, 0), (0.099009900990, 0.188118811881, 0.268316831683)),
}
"""Name -> optimizer, rate, the mean of each round, and the model after it, begun at 0."""

each_trace = pytest.mark.parametrize(("text", "rate", "means", "models"), TRACES.values(), ids=list(TRACES))
each_optimizer = pytest.mark.parametrize("name", STEPS)


def facts(rows: Sequence[tuple[float, float]] = ((1.0, 1.0),), *, mean_norm: float = 1.0) -> RoundFacts:
    """Of a round with updates of these (weight, norm)."""
    folded = [
        FoldedUpdate(
            base_round=1,
            worker=f"w{index}",
            staleness=0,
            num_samples=1,
            weight=weight,
            base_weight=weight,
            figures={"norm": norm},
        )
        for index, (weight, norm) in enumerate(rows)
    ]
    divisor = sum(weight for weight, _ in rows)
    return RoundFacts(folded=folded, divisor=divisor, mean_norm=lambda: mean_norm, local=LocalTraining())


def path_of(step: Step, rate: float, means: Sequence[float]) -> list[float]:
    """The models that these means make of 0."""
    state, scalars, model, models = step.init(1), {}, 0.0, []
    for mean in means:
        scalars = dict(step.scalars(scalars, facts()))
        direction, state = step.apply(np.array([float(mean)]), state, scalars)
        model += rate * float(direction[0])
        models.append(model)
    return models


@each_trace
def test_a_pure_step_follows_its_trace(text: str, rate: float, means: Sequence[float], models: Sequence[float]) -> None:
    assert path_of(ServerOptimizer.parse(text).step, rate, means) == pytest.approx(models, abs=1e-12)


@each_trace
def test_a_run_follows_the_trace_through_its_files(
    begin: Begin, text: str, rate: float, means: Sequence[float], models: Sequence[float]
) -> None:
    run = begin(StateTask(state_of(w=[0.0])), server_optimizer=text, server_lr=rate, rounds=3, quorum="1")
    found = []
    for mean in means:
        run.fold_all([("a", state_of(w=[float(mean)]))])
        found.append(float(run.model["w"][0]))
        run = run.crash().start()
    assert found == pytest.approx(models, abs=1e-12)


def test_diloco_on_a_constant_mean_comes_to_steps_of_seven() -> None:
    models = path_of(STEPS["diloco"](), 0.7, [1.0] * 50)
    steps = np.diff([0.0, *models])
    assert [*steps[:3], steps[49]] == pytest.approx([1.33, 1.897, 2.4073, 6.9675], abs=5e-5)


def test_diloco_is_nesterov_of_torch() -> None:
    random = np.random.default_rng(3)
    means = random.standard_normal((6, 20))
    parameter = torch.zeros(20, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=True)
    step = STEPS["diloco"]()
    state, model = step.init(20), np.zeros(20)
    for mean in means:
        parameter.grad = torch.from_numpy(-mean)
        theirs.step()
        direction, state = step.apply(mean.copy(), state, {})
        model += 0.7 * direction
        np.testing.assert_allclose(model, parameter.detach().numpy(), atol=1e-12)


def test_fedams_never_steps_further_than_the_largest_square_allows() -> None:
    means = [1.0, *[1e-3] * 20]
    ams, adam = (path_of(STEPS[name](v0="0"), 0.1, means)[-1] for name in ("fedams", "fedadam"))
    assert ams < adam


# -- FedExP ------------------------------------------------------------------------------------------------------------


def test_fedexp_doubles_the_mean_of_four_orthogonal_updates() -> None:
    step = STEPS["fedexp"](eps=0.0)
    assert step.scalars({}, facts([(1.0, 1.0)] * 4, mean_norm=0.5)) == {"factor": 2.0}
    with_eps = STEPS["fedexp"]().scalars({}, facts([(1.0, 1.0)] * 4, mean_norm=0.5))
    assert with_eps == {"factor": pytest.approx(1 / (2 * 0.251), abs=1e-12)}


def test_fedexp_steps_no_less_than_the_mean_and_not_at_all_where_there_is_none() -> None:
    assert STEPS["fedexp"]().scalars({}, facts([(1.0, 1.0)])) == {"factor": 1.0}
    assert STEPS["fedexp"](eps=0.0).scalars({}, facts([(1.0, 0.0)], mean_norm=0.0)) == {"factor": 1.0}


def test_fedexp_in_a_run_doubles_the_mean_of_four_orthogonal_updates(begin: Begin) -> None:
    run = begin(StateTask(state_of(w=[0.0] * 4)), server_optimizer="fedexp:eps=0", rounds=2, quorum="4")
    run.fold_all([(f"w{index}", state_of(w=np.eye(4)[index].tolist())) for index in range(4)])
    assert run.model["w"].tolist() == pytest.approx([0.5] * 4, abs=1e-12)
    assert run.query("SELECT step_scalars FROM rounds WHERE round = 1") == [('{"factor": 2.0}',)]


@pytest.mark.parametrize("compression", ["none", "int8"])
def test_workers_say_the_norm_of_what_is_folded(tmp_path: Path, compression: str) -> None:
    fields = {"workers": 2, "rounds": 2, "epochs": 1, "compression": compression, "state": tmp_path / "run"}
    with simulate("digits", server_optimizer="fedexp", **fields) as history:
        assert [row["num_folded"] for row in history.rounds()] == [2, 2]
    with closing(sqlite3.connect(tmp_path / "run" / "ledger.sqlite")) as ledger:
        rows = ledger.execute("SELECT figures, norm FROM updates").fetchall()
    for figures, norm in rows:
        assert json.loads(figures)["norm"] == pytest.approx(norm, rel=1e-5)


def test_fedexp_refuses_an_update_that_says_no_norm_or_another_than_it_has(begin: Begin) -> None:
    run = begin(StateTask(state_of(w=[0.0])), server_optimizer="fedexp", rounds=2, quorum="2")
    assert run.head.figures == ("norm",)
    run.fold_all([("a", state_of(w=[1.0]))], figures={})
    run.fold_all([("b", state_of(w=[1.0]))], figures={"norm": 100.0})
    assert "does not give the figure norm, which this round goes by" in run.reasons[0]
    assert "says that its norm is 100, and it is 1" in run.reasons[1]


def test_fedexp_has_the_same_bits_however_an_update_comes_and_is_folded(begin: Begin) -> None:
    random = torch.Generator().manual_seed(2)
    deltas = [{"w": torch.randn(70_000, generator=random)} for _ in range(3)]

    def model_of(folder: str, blob_bytes: int | None, **fields: Any) -> bytes:
        task = StateTask({"w": torch.linspace(-1, 1, 70_000)})
        run = begin(task, folder=folder, server_optimizer="fedexp", rounds=2, quorum="3", part_bytes=8 * 4096, **fields)
        for index, each in enumerate(deltas):
            run.send(f"w{index}", each, blob_bytes=blob_bytes, num_samples=index + 1)
        run.settle()
        assert run.round == 2
        return run.model["w"].numpy().tobytes()

    whole = model_of("whole", None)
    assert whole == model_of("parts", 8 * 4096)
    if importlib.util.find_spec("numba"):
        assert whole == model_of("compiled", None, compiled_fold=True)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"robust": "median"}, "fedexp takes its rate from how long they are"),
        ({"shards": 2}, "which partial aggregators cannot verify; leave --shards out"),
        (
            {"weighting": "fednova"},
            "that of --weighting fednova is of another kind; give --weighting samples, uniform or task",
        ),
        ({"weighting": "qfedavg:q=1"}, "give --weighting samples, uniform or task"),
    ],
)
def test_fedexp_is_refused_where_there_is_nothing_to_compare(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        AggregatorSettings(server_optimizer="fedexp", **fields)


# -- what all of them are ----------------------------------------------------------------------------------------------


@each_optimizer
def test_its_text_and_its_value_are_one(name: str) -> None:
    assert str(ServerOptimizer.parse(name)) == name
    settings = AggregatorSettings(server_optimizer=name)
    assert settings.config.step == STEPS[name]()
    assert settings.config.server_lr == STEPS[name].server_lr
    assert AggregatorSettings(server_optimizer=name, server_lr=0.25).config.server_lr == 0.25


@each_optimizer
def test_its_rate_can_be_set_while_a_run_goes_on(name: str) -> None:
    config = AggregatorSettings(server_optimizer=name).config
    changed = config.with_settings({"server_lr": "0.125"})
    assert (changed.server_lr, changed.step) == (0.125, config.step)
    assert config.with_settings({"server_lr": "none"}).server_lr == STEPS[name].server_lr


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("adam", "there is no 'adam'; known are fedavg, fedavgm, diloco, fedadam, .* one of your own is given as path"),
        ("fedadagrad:beta2=0.9", "no parameter 'beta2'; it has beta1, tau, v0, bias_correction"),
        ("fedavgm:momentum=1", "momentum: Input should be less than 1"),
        ("fedadam:tau=0", "tau: Input should be greater than 0"),
        ("fedyogi:v0=1", "v0: Input should be 'tau2' or '0'"),
        ("fedexp:momentum=0.9", "no parameter 'momentum'; it has eps"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        AggregatorSettings(server_optimizer=text)


def test_without_momentum_fedavgm_is_fedavg_to_the_bit(begin: Begin) -> None:
    random = torch.Generator().manual_seed(5)
    deltas = [{"w": torch.randn(5000, generator=random)} for _ in range(3)]

    def model_of(optimizer: str) -> bytes:
        task = StateTask({"w": torch.linspace(-1, 1, 5000)})
        run = begin(task, folder=optimizer[:7], server_optimizer=optimizer, server_lr=0.7, rounds=3, quorum="1")
        for each in deltas:
            run.fold_all([("a", each)])
        return run.model["w"].numpy().tobytes()

    assert model_of("fedavg") == model_of("fedavgm:momentum=0")


class WithBatchNorm(nn.Module):
    """A trained layer, the statistics of BatchNorm, and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)


class NormTask:
    def model(self) -> nn.Module:
        torch.manual_seed(1)
        return WithBatchNorm()

    def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
        return {"num_samples": 1}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


@each_optimizer
def test_statistics_of_batchnorm_move_by_the_plain_mean(begin: Begin, name: str) -> None:
    run = begin(NormTask(), server_optimizer=name, server_lr=2.0, rounds=4, quorum="2")
    variances = {"a": (0.1, 0.7, 0.02), "b": (0.3, 0.05, 0.04)}
    for number in range(3):
        before = run.model

        def delta(worker: str, number: int = number, before: State = before) -> dict[str, Any]:
            changes = {key: torch.full_like(tensor, 0.5) for key, tensor in before.items()}
            changes["norm.running_var"] = variances[worker][number] - before["norm.running_var"]
            changes["norm.num_batches_tracked"] = torch.tensor(10 if worker == "a" else 13)
            return changes

        deltas = [(worker, delta(worker)) for worker in "ab"]
        run.fold_all(deltas)
        assert (run.model["norm.running_var"] > 0).all()
        mean = sum(variances[worker][number] for worker in "ab") / 2
        torch.testing.assert_close(run.model["norm.running_var"], torch.full((3,), mean))
        assert run.model["norm.num_batches_tracked"] == 12 * (number + 1)
        assert not torch.equal(run.model["linear.weight"], before["linear.weight"])


@pytest.mark.parametrize("optimizer", ["fedavgm", "fedadam", "fedams"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_follows_its_master(begin: Begin, optimizer: str, dtype: torch.dtype) -> None:
    fields = {"server_optimizer": optimizer, "server_lr": 1e-3, "rounds": 12, "quorum": "1"}
    half = begin(StateTask({"w": torch.ones(3, dtype=dtype)}), folder="half", **fields)
    exact = begin(StateTask(state_of(w=[1.0, 1.0, 1.0])), folder="exact", **fields)
    for _ in range(10):
        half.fold_all([("a", {"w": torch.full((3,), 0.0625, dtype=dtype)})])
        exact.fold_all([("a", state_of(w=[0.0625] * 3))])
        half = half.crash().start()
    assert half.model["w"].tolist() == exact.model["w"].to(dtype).tolist()


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedams"])
def test_a_discount_that_all_updates_share_cancels_in_an_adaptive_step(name: str) -> None:
    step = STEPS[name](v0="0", tau=1e-9)
    whole, halved = (path_of(step, 0.1, [part * mean for mean in (1.0, 0.5, -0.25)]) for part in (1.0, 0.5))
    assert whole == pytest.approx(halved, abs=1e-7)
    plain, discounted = (path_of(FedAvg(), 1.0, [part]) for part in (1.0, 0.5))
    assert plain[0] == 2 * discounted[0]


@pytest.mark.parametrize(
    ("optimizer", "models"),
    [
        ("fedavg", (0.75, 0.832842712475, 1.106047793232)),
        ("fedavgm:momentum=0.9", (0.75, 1.507842712475, 2.463106234459)),
    ],
)
def test_an_asynchronous_run_follows_its_trace(begin: Begin, optimizer: str, models: tuple[float, ...]) -> None:
    """FedBuff (Nguyen et al. 2022) with a buffer of two, and server momentum on top of it."""
    fields = {"max_staleness": 2, "quorum": "2", "rounds": 4, "weighting": "uniform", "commit_every_s": AT_ONCE_S}
    run = begin(StateTask(state_of(w=[0.0])), server_optimizer=optimizer, **fields)
    for updates, model in zip((((1, 1.0), (1, 0.5)), ((1, 0.8), (2, -0.4)), ((1, 0.6), (3, 0.2))), models, strict=True):
        for index, (base, delta) in enumerate(updates):
            run.send(f"site-{run.round}-{index}", state_of(w=[delta]), round=base)
        run.settle()
        assert float(run.model["w"][0]) == pytest.approx(model, abs=1e-12)
