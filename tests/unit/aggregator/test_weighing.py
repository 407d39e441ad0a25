"""What updates weigh: the rules of the papers, and that a run follows them in any order, through kills and shards."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from unit.aggregator.embedded_run import AT_ONCE_S, EmbeddedRun, StateTask

from aggregator.state import FoldedUpdate
from aggregator.weighing.weigher import Weigher
from broker.wire.messages import Folded
from console import UnfitMessage
from learning import Plan

Begin = Callable[..., EmbeddedRun]


def claim(worker: str = "a", *, num_samples: int = 4, **figures: float) -> Folded:
    return Folded(
        worker=worker,
        instance="0" * 16,
        num_samples=num_samples,
        num_bytes=8,
        train_s=0.1,
        sent_at=1.0,
        figures=figures,  # type: ignore[arg-type]
    )


def mean(weigher: Weigher, claims: list[Folded], deltas: list[list[float]]) -> list[float]:
    weights = [weigher.weigh(each) for each in claims]
    folded = [
        FoldedUpdate(
            base_round=1,
            worker=each.worker,
            staleness=0,
            num_samples=each.num_samples,
            weight=weight.weight,
            base_weight=weight.base,
            figures={str(name): figure for name, figure in each.figures.items()},
        )
        for each, weight in zip(claims, weights, strict=True)
    ]
    divisor = weigher.divisors(folded).stepped
    columns = zip(*deltas, strict=True)
    return [math.fsum(w.weight * d for w, d in zip(weights, column, strict=True)) / divisor for column in columns]


# -- what a local training accumulates ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "num_steps", "expected"),
    [
        ({"momentum": 0.9}, 1, 1.0),
        ({"momentum": 0.9}, 3, 5.61),
        ({"momentum": 0.9}, 5, 13.1441),
        ({"momentum": 0.9}, 10, 41.381059609),
        ({"mu": 1.0}, 1, 1.0),
        ({"mu": 1.0}, 3, 2.71),
        ({"mu": 1.0}, 5, 4.0951),
        ({}, 7, 7.0),
        ({"momentum": 0.9, "mu": 1.0}, 2, 2.8),
    ],
)
def test_how_often_gradients_are_in_a_delta(plan: dict[str, float], num_steps: int, expected: float) -> None:
    norm1 = Plan(round=1, seed=0, lr=0.1, **plan).update_norm1(num_steps)  # type: ignore[arg-type]
    assert norm1 == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_is_what_torch_s_sgd_makes_of_gradients_of_one(momentum: float) -> None:
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([weight], lr=0.1, momentum=momentum)
    for _ in range(6):
        sgd.zero_grad()
        (weight + 0.35 * weight.square()).sum().backward()  # a gradient of 1, and mu 0.7
        sgd.step()
    norm1 = Plan(round=1, seed=0, lr=0.1, momentum=momentum, mu=0.7).update_norm1(6)
    assert -weight.item() / 0.1 == pytest.approx(norm1, abs=1e-12)


# -- the papers' numbers --------------------------------------------------------------------------------------


OPTIMA, SAMPLES, STEPS = (1.0, 2.0, 4.0), (1, 2, 1), (1, 3, 5)


def local_sgd(x: float, optimum: float, *, num_steps: int, momentum: float) -> float:
    """The delta of so many steps on (x - optimum)^2 / 2."""
    y, velocity = x, 0.0
    for _ in range(num_steps):
        velocity = momentum * velocity + (y - optimum)
        y -= 0.1 * velocity
    return y - x


@pytest.mark.parametrize(
    ("weighting", "momentum", "expected", "limit"),
    [
        ("fednova", 0.0, (0.591706, 1.022511458391, 1.336169496301), 2.175977699856),
        ("samples", 0.0, (0.70551, 1.225557294975, 1.608895857165), 2.683797586328),
        ("fednova", 0.9, (1.235994820411, 1.763594738685, 1.988807392626), 2.156541769956),
        ("samples", 0.9, (), 2.907823249087),
    ],
)
def test_fednova_s_trace(weighting: str, momentum: float, expected: tuple[float, ...], limit: float) -> None:
    """Trace N: sites that do 1, 3 and 5 steps; the optimum is 2.25."""
    weigher, x, met = Weigher.parse(weighting), 0.0, []
    plan = Plan(round=1, seed=0, lr=0.1, momentum=momentum)
    for _ in range(200):
        deltas = [[local_sgd(x, e, num_steps=n, momentum=momentum)] for e, n in zip(OPTIMA, STEPS, strict=True)]
        claims = [
            claim(str(n), num_samples=samples, update_norm1=plan.update_norm1(n))
            for n, samples in zip(STEPS, SAMPLES, strict=True)
        ]
        x += mean(weigher, claims, deltas)[0]
        met.append(x)
    assert met[: len(expected)] == pytest.approx(expected, abs=1e-12)
    assert x == pytest.approx(limit, abs=1e-11)


@pytest.mark.parametrize(
    ("q", "expected"),
    [(0.0, (0.5, 1.0)), (1.0, (5 / 525, 40 / 525))],
)
def test_q_fedavg_s_trace(q: float, expected: tuple[float, float]) -> None:
    """Trace Q: losses 0.5 and 2, L = 10."""
    weigher = replace(Weigher.parse(f"qfedavg:q={q}"), lr=0.1)
    claims = [claim("a", loss_before=0.5, norm=1.0), claim("b", loss_before=2.0, norm=2.0)]
    assert mean(weigher, claims, [[1.0, 0.0], [0.0, 2.0]]) == pytest.approx(expected, abs=1e-12)


def test_powers_that_are_no_integers() -> None:
    weigher = replace(Weigher.parse("qfedavg:q=0.5"), lr=0.5)
    weight = weigher.weigh(claim(loss_before=4.0, norm=3.0))
    assert (weight.weight, weight.base) == (2.0, 2.0 + 0.5 * 0.5 * 9 / 0.5)


def test_a_perfect_fit_has_a_weight_all_the_same() -> None:
    weight = replace(Weigher.parse("qfedavg:q=0.5"), lr=0.1).weigh(claim(loss_before=0.0, norm=1.0))
    assert 0 < weight.weight < math.inf


# -- equivalences, bit for bit --------------------------------------------------------------------------------

DELTAS = [[0.1, -0.3], [0.7, 1e-9], [-1.3, 2.5]]


@pytest.mark.parametrize(
    ("one", "figures", "other"),
    [
        ("fednova", {"update_norm1": 4.0}, "samples"),
        ("qfedavg:q=0", {"loss_before": 0.3, "norm": 2.0}, "uniform"),
        ("task", {"aggregation_weight": 1e9}, "samples"),
        ("task", {"aggregation_weight": 1.0}, "uniform"),
    ],
)
def test_what_a_weighting_reduces_to(one: str, figures: dict[str, float], other: str) -> None:
    claims = [claim(str(n), num_samples=n, **figures) for n in (3, 5, 7)]
    assert mean(Weigher.parse(one), claims, DELTAS) == mean(Weigher.parse(other), claims, DELTAS)


def test_a_clip_that_nobody_reaches_changes_no_bit() -> None:
    claims = [claim(str(n), num_samples=n, norm=2.0) for n in (3, 5, 7)]
    assert mean(Weigher(clip_norm=2.0), claims, DELTAS) == mean(Weigher(), claims, DELTAS)


def test_a_longer_update_counts_as_one_of_the_clip_s_length() -> None:
    weight = Weigher(clip_norm=2.0).weigh(claim(num_samples=6, norm=8.0))
    assert (weight.weight, weight.base) == (1.5, 6.0)


@pytest.mark.parametrize(
    ("weighting", "figures", "said"),
    [
        ("fednova", {}, "it does not give the figure update_norm1"),
        ("fednova", {"update_norm1": 0.0}, "no gradient is in its update"),
        ("qfedavg", {"norm": 1.0}, "it does not give the figure loss_before"),
        ("qfedavg:q=2", {"norm": 1.0, "loss_before": 1e300}, "its figures make its weight inf"),
        ("task", {"aggregation_weight": 0.0}, "its figures make its weight 0"),
    ],
)
def test_what_cannot_be_weighed_is_refused(weighting: str, figures: dict[str, float], said: str) -> None:
    with pytest.raises(UnfitMessage, match=said):
        Weigher.parse(weighting).weigh(claim(**figures))


# -- in a run -------------------------------------------------------------------------------------------------

INITIAL = {"w": torch.zeros(2, dtype=torch.float64)}
UPDATES = {
    "a": ([0.25, -1.0], 1, {"update_norm1": 1.0, "loss_before": 0.5, "aggregation_weight": 0.5}),
    "b": ([1.5, 0.75], 2, {"update_norm1": 3.0, "loss_before": 2.0, "aggregation_weight": 2.0}),
    "c": ([-0.5, 4.0], 3, {"update_norm1": 5.0, "loss_before": 1.0, "aggregation_weight": 2.5}),
}
SETTINGS = [
    {"weighting": "fednova"},
    {"weighting": "qfedavg:q=0.5"},
    {"weighting": "task"},
    {"clip_norm": 1.25},
    {"weighting": "fednova", "clip_norm": 1.25},
]


def ended(
    begin: Begin, workers: str, *, folder: str, killed_after: int | None = None, **settings: object
) -> EmbeddedRun:
    run = begin(StateTask(INITIAL), folder=folder, rounds=1, quorum="3", commit_every_s=AT_ONCE_S, **settings)
    for number, worker in enumerate(workers):
        values, num_samples, figures = UPDATES[worker]
        delta = {"w": torch.tensor(values, dtype=torch.float64)}
        needed = Weigher.parse(str(settings.get("weighting", "samples")))
        told = {name: figure for name, figure in figures.items() if name in needed.needs}
        if "norm" in needed.needs or "clip_norm" in settings:
            told["norm"] = float(delta["w"].norm())
        run.send(worker, delta, num_samples=num_samples, figures=told)
        run.settle()
        if killed_after == number:
            run = run.crash().start()
    assert run.aggregator.is_finished
    return run


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_run_weighs_as_the_rule_says_in_any_order_and_killed_anywhere(
    begin: Begin, settings: dict[str, object]
) -> None:
    weigher = replace(
        Weigher.parse(str(settings.get("weighting", "samples"))), clip_norm=settings.get("clip_norm"), lr=0.05
    )
    claims = [
        claim(name, num_samples=num, norm=math.hypot(*values), **figures)
        for name, (values, num, figures) in UPDATES.items()
    ]
    expected = mean(weigher, claims, [values for values, _, _ in UPDATES.values()])
    digests = set()
    for number, order in enumerate(itertools.permutations("abc")):
        run = ended(begin, "".join(order), folder=f"order-{number}", killed_after=number % 3, **settings)
        assert run.model["w"].tolist() == pytest.approx(expected, abs=1e-12)
        digests.add(run.summary["final"]["model_sha256"])
    assert len(digests) == 1


def test_a_norm_that_is_not_the_update_s_is_refused_and_nothing_of_it_stays(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), rounds=1, quorum="1", clip_norm=1.0)
    run.send("liar", {"w": torch.tensor([30.0, 40.0], dtype=torch.float64)}, figures={"norm": 1.0})
    run.settle()
    assert run.reasons == ["it says that its norm is 1, and it is 50"]
    run.send("honest", {"w": torch.tensor([3.0, 4.0], dtype=torch.float64)}, figures={"norm": 5.0})
    run.settle()
    assert run.model["w"].tolist() == pytest.approx([0.6, 0.8], abs=1e-12)


def test_a_round_that_was_begun_with_one_weighting_ends_with_it(begin: Begin) -> None:
    """A start with another one would divide a sum of samples by something else."""
    run = begin(StateTask(INITIAL), rounds=2, quorum="2", commit_every_s=AT_ONCE_S)
    run.send("a", {"w": torch.tensor([1.0, 1.0], dtype=torch.float64)}, num_samples=30)
    run.settle()
    run.crash()
    again = EmbeddedRun.make(
        run.folder, run.task, broker=run.broker, rounds=2, quorum="2", commit_every_s=AT_ONCE_S, weighting="uniform"
    ).start()
    again.send("b", {"w": torch.tensor([5.0, 5.0], dtype=torch.float64)}, num_samples=10)
    again.settle()
    assert again.model["w"].tolist() == [2.0, 2.0]
    again.fold_all([("a", {"w": torch.zeros(2, dtype=torch.float64)})])
    again.send("b", {"w": torch.tensor([2.0, 2.0], dtype=torch.float64)}, num_samples=10)
    again.settle()
    assert again.model["w"].tolist() == [3.0, 3.0]


def test_buffers_are_a_mean_of_sites_even_where_steps_are_not(begin: Begin) -> None:
    """FedNova's weights of parameters add up to more than 1; a variance moved by them would become negative."""
    task = StateTask({"var": torch.ones(1, dtype=torch.float64)}, buffers=("var",))
    run = begin(task, rounds=1, quorum="2", weighting="fednova")
    for worker, norm1 in (("a", 1.0), ("b", 100.0)):
        run.send(worker, {"var": torch.tensor([-0.9], dtype=torch.float64)}, figures={"update_norm1": norm1})
    run.settle()
    assert run.model["var"].tolist() == pytest.approx([0.1], abs=1e-12)
