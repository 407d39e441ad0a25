"""SCAFFOLD and FedDyn against traces that were reckoned apart: the pure halves to 1e-12, whole runs to 1e-6."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from unit.corrections.federation import CENTRES, CURVATURES, Federation, Parabola, pairs

from aggregator.algorithms.step import RoundFacts, Step, added
from aggregator.corrections import control, feddyn, scaffold
from aggregator.state.ledger import FoldedUpdate
from broker.states.grid import OnGrid
from broker.states.tensors import State
from broker.wire.messages import LocalTraining
from worker.algorithms.correct import Correct, Sent, Terms
from worker.algorithms.feddyn import FedDynCorrect
from worker.algorithms.scaffold import ScaffoldCorrect

STEPS, LR = 5, 0.05
EVERYBODY = (0, 1, 2, 3)


def exactly(total: np.ndarray, population: float) -> np.ndarray:
    """c without the rounding to float32, as the traces have it."""
    return total / population if population else np.zeros(len(total))


def tensor(value: float) -> State:
    return {"x": torch.tensor([value], dtype=torch.float64)}


Local = Callable[[float, Callable[[float], float]], float]
"""(received, what is added to the gradient at a place) -> trained."""


def added_by(terms: Terms, received: float, y: float) -> float:
    """What a correction adds to the gradient at y."""
    return (float(terms.linear["x"]) if terms.linear else 0.0) + terms.pull * (y - received)


@dataclass
class Pure:
    """Both halves of a correction on the parabolas, with nothing between them."""

    step: Step
    correct: Correct
    local: Sequence[Local]
    lr: float = LR
    x: float = 0.0
    population: int | None = None
    scalars: dict[str, float] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    kept: dict[int, State] = field(default_factory=dict)

    def round(self, chosen: Sequence[int], *, norm1: float = STEPS) -> float:
        before = self.state or dict(self.step.init(1))
        c = exactly(before.get(control.CONTROL_SUM, np.zeros(1)), self.scalars.get("population", 0.0))
        told, deltas = tensor(float(c[0])), []
        for index in chosen:
            kept = self.kept.get(index, {})
            terms = self.correct.terms(tensor(self.x), told, kept)

            deltas.append(self.local[index](self.x, partial(added_by, terms, self.x)) - self.x)
            sent = Sent(delta=tensor(deltas[-1]), lr=self.lr, figures={"update_norm1": norm1})
            self.kept[index] = self.correct.after(sent, told, kept)
        folded = [
            FoldedUpdate(base_round=1, worker=str(i), staleness=0, num_samples=1, weight=1, base_weight=1)
            for i in chosen
        ]
        facts = RoundFacts(
            folded=folded,
            divisor=len(chosen) / norm1,
            mean_norm=lambda: 0.0,
            local=LocalTraining(lr=self.lr),
            population=self.population or len(self.local),
        )
        self.scalars = dict(self.step.scalars(self.scalars, facts))
        weight = 1 / (norm1 * self.lr) if isinstance(self.step, scaffold.ScaffoldStep) else 1.0
        total = OnGrid.rounded(np.zeros(1))
        for delta in deltas:
            total = total.plus(OnGrid.rounded(np.array([delta]), weight))
        before = added(self.step, lambda: total, before, self.scalars)
        direction, self.state = self.step.apply(np.array([np.mean(deltas)]), before, self.scalars)  # type: ignore[assignment]
        self.x += float(direction[0])
        return self.x

    @property
    def c(self) -> float:
        return float(self.state[control.CONTROL_SUM][0]) / len(self.local)


def descending(h: float, e: float, momentum: float = 0.0) -> Local:
    def local(x: float, added: Callable[[float], float]) -> float:
        y, velocity = x, 0.0
        for _ in range(STEPS):
            velocity = momentum * velocity + h * (y - e) + added(y)
            y -= LR * velocity
        return y

    return local


def minimizing(h: float, e: float, alpha: float) -> Local:
    """The exact minimum of h/2 (y - e)^2 plus what is added, which is linear in y."""
    return lambda x, added: (h * e - added(0.0)) / (h + alpha)


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaffold, "broadcast", exactly)


def scaffolded(momentum: float = 0.0) -> Pure:
    sites = [descending(h, e, momentum) for h, e in zip(CURVATURES, CENTRES, strict=True)]
    return Pure(scaffold.ScaffoldStep(), ScaffoldCorrect(), sites)


@pytest.mark.usefixtures("unrounded")
def test_scaffold_with_pairs_in_turn() -> None:
    pure = scaffolded()
    found = [(pure.round(chosen), pure.c) for chosen in pairs(6)]
    assert [x for x, _ in found] == pytest.approx(
        [-0.091645468750, 0.473539626745, 0.623328240914, 0.565414542757, 0.618016042012, 0.660574775123], abs=1e-12
    )
    assert [c for _, c in found] == pytest.approx(
        [0.183290937500, -1.038724722240, -0.818939589458, -0.293642398415, -0.252024197718, -0.211129565080], abs=1e-12
    )
    for chosen in pairs(60)[6:]:
        pure.round(chosen)
    assert pure.x == pytest.approx(0.700000000002, abs=1e-12)


@pytest.mark.usefixtures("unrounded")
def test_the_server_has_the_sum_of_what_the_sites_have_at_every_moment() -> None:
    pure = scaffolded(momentum=0.9)
    norm1 = LocalNorm.of(0.9)
    for chosen in pairs(40):
        pure.round(chosen, norm1=norm1)
        kept = sum(float(state["x"][0]) for state in pure.kept.values())
        assert 4 * pure.c == pytest.approx(kept, abs=1e-12)


class LocalNorm:
    @staticmethod
    def of(momentum: float) -> float:
        moved = velocity = 0.0
        for _ in range(STEPS):
            velocity = momentum * velocity + 1
            moved += velocity
        return moved


@pytest.mark.usefixtures("unrounded")
def test_with_momentum_the_fixed_point_is_the_minimum_if_divided_by_norm1() -> None:
    pure = scaffolded(momentum=0.5)
    for _ in range(200):
        pure.round(EVERYBODY, norm1=LocalNorm.of(0.5))
    assert pure.x == pytest.approx(0.7, abs=1e-12)


def drifting(steps: int) -> list[Local]:
    """V1: x^2 + x and -x; their mean has its minimum at 0."""

    def local(slope: float, curvature: float) -> Local:
        def trained(x: float, added: Callable[[float], float]) -> float:
            y = x
            for _ in range(steps):
                y -= LR * (curvature * y + slope + added(y))
            return y

        return trained

    return [local(1, 2), local(-1, 0)]


@pytest.mark.parametrize(("steps", "limit"), [(1, 0.0), (2, 0.0263157895), (10, 0.2676699664)])
def test_the_mean_of_two_sites_that_drift_ends_off_their_minimum(steps: int, limit: float) -> None:
    x = 1.0
    for _ in range(600):
        x = float(np.mean([local(x, lambda y: 0.0) for local in drifting(steps)]))
    assert x == pytest.approx(limit, abs=1e-10)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize(("steps", "x_50"), [(1, 7.694e-2), (2, 5.888e-3), (10, 0.0)])
def test_scaffold_takes_two_sites_that_drift_to_their_minimum(steps: int, x_50: float) -> None:
    pure = Pure(scaffold.ScaffoldStep(), ScaffoldCorrect(), drifting(steps), x=1.0)
    for _ in range(50):
        pure.round((0, 1), norm1=steps)
    assert pure.x == pytest.approx(x_50, rel=1e-3, abs=1e-13)


class Turned(ScaffoldCorrect):
    """With the sign that pfl-research's formula has."""

    def terms(self, received: State, control: State, kept: State) -> Terms:
        return Terms({name: -linear for name, linear in super().terms(received, control, kept).linear.items()})


@pytest.mark.usefixtures("unrounded")
def test_with_the_sign_turned_scaffold_diverges() -> None:
    pure = Pure(scaffold.ScaffoldStep(), Turned(), drifting(2), x=1.0)
    for _ in range(20):
        pure.round((0, 1), norm1=2)
    assert pure.x == pytest.approx(3.66e3, rel=1e-3)


@pytest.mark.usefixtures("unrounded")
def test_without_the_share_of_who_took_part_scaffold_overshoots() -> None:
    pure = scaffolded()
    pure.population = 2
    assert [pure.round(chosen) for chosen in pairs(4)] == pytest.approx(
        [-0.091645468750, 0.435813712256, 0.811748558389, 0.792056991921], abs=1e-12
    )


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize(("goes_on", "distance"), [(True, 1.4854e-2), (False, 0.0)])
def test_a_worker_that_goes_on_from_a_late_update_shifts_the_limit(goes_on: bool, distance: float) -> None:
    pure = scaffolded()
    for chosen in pairs(6):
        pure.round(chosen)
    ahead = replace(pure, kept=dict(pure.kept))
    ahead.round((0,))
    pure.round((1,))
    if goes_on:
        pure.kept[0] = ahead.kept[0]
    for chosen in pairs(307)[7:]:
        pure.round(chosen)
    assert abs(pure.x - 0.7) == pytest.approx(distance, rel=1e-3, abs=1e-14)


def test_feddyn_with_exact_minima() -> None:
    alpha = 0.5
    sites = [minimizing(h, e, alpha) for h, e in ((1.0, 0.0), (2.0, 6.0))]
    pure = Pure(feddyn.FedDynStep(alpha), FedDynCorrect(alpha), sites)
    found = []
    for _ in range(6):
        x = pure.round((0, 1))
        found.append((x, -alpha * float(pure.state[feddyn.MOVED_SUM][0]) / 2))
    assert [x for x, _ in found] == pytest.approx([4.8, 4, 3.84, 3.84, 3.872, 3.904], abs=1e-12)
    assert [h for _, h in found] == pytest.approx([-1.2, -0.4, -0.16, -0.08, -0.048, -0.032], abs=1e-12)
    for _ in range(44):
        pure.round((0, 1))
    assert pure.x == pytest.approx(3.999999935474, abs=1e-12)
    assert [-alpha * float(pure.kept[i]["x"][0]) for i in (0, 1)] == pytest.approx([4, -4], abs=1e-5)


def test_feddyn_with_pairs_in_turn() -> None:
    sites = [minimizing(h, e, 1.0) for h, e in zip(CURVATURES, CENTRES, strict=True)]
    pure = Pure(feddyn.FedDynStep(1.0), FedDynCorrect(1.0), sites)
    found = [pure.round(chosen) for chosen in pairs(6)]
    assert found == pytest.approx(
        [-0.125, 1.263020833333, 0.836783854167, 0.588391113281, 0.265735270182, 0.980938058924], abs=1e-12
    )
    for chosen in pairs(60)[6:]:
        pure.round(chosen)
    assert pure.x == pytest.approx(0.699968701, abs=1e-9)


# -- whole runs ---------------------------------------------------------------------------------------------


def test_a_whole_run_of_scaffold_gives_the_trace(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="scaffold", quorum=4)
    assert run.rounds_of([EVERYBODY] * 6) == pytest.approx(
        [0.316364609375, 0.503322808296, 0.602341741503, 0.652304672083, 0.676915430206, 0.688884214349], abs=1e-6
    )


def test_a_whole_run_of_feddyn_gives_the_trace(tmp_path: Path) -> None:
    sites = [Parabola(h, e, exact=True) for h, e in ((1.0, 0.0), (2.0, 6.0))]
    run = Federation.make(tmp_path, sites, correction="feddyn:alpha=0.5", lr=2.0)
    assert run.rounds_of([(0, 1)] * 6) == pytest.approx([4.8, 4, 3.84, 3.84, 3.872, 3.904], abs=1e-6)


def test_the_first_round_of_scaffold_is_that_of_federated_averaging_bit_for_bit(tmp_path: Path) -> None:
    """With powers of two as the rate and the number of steps both reckon the same."""
    plain = Federation.make(tmp_path / "plain", weighting="uniform", quorum=4, epochs=4, lr=0.0625)
    run = Federation.make(tmp_path / "corrected", correction="scaffold", quorum=4, epochs=4, lr=0.0625)
    assert run.rounds_of([EVERYBODY]) == plain.rounds_of([EVERYBODY])
    assert run.rounds_of([EVERYBODY]) != plain.rounds_of([EVERYBODY])


def test_with_different_numbers_of_steps_scaffold_still_goes_to_the_minimum(tmp_path: Path) -> None:
    sites = [Parabola(h, e, steps=n) for h, e, n in zip(CURVATURES, CENTRES, (1, 3, 5, 7), strict=True)]
    run = Federation.make(tmp_path, sites, correction="scaffold", quorum=4, momentum=0.5)
    assert run.rounds_of([EVERYBODY] * 40)[-1] == pytest.approx(0.7, abs=1e-6)
    assert run.server_sum() == run.sum_of_kept()


def test_ditto_that_is_not_pulled_trains_alone(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="ditto:lam=0", quorum=4)
    plain = Federation.make(tmp_path / "plain", quorum=4)
    assert run.rounds_of([EVERYBODY] * 3) == plain.rounds_of([EVERYBODY] * 3)
    for index, (h, e) in enumerate(zip(CURVATURES, CENTRES, strict=True)):
        x = torch.zeros(1, dtype=torch.float64)
        for _ in range(3 * STEPS):
            x -= LR * h * (x - e)
        assert float(run.carried(f"site-{index}").sets["personal"]["x"]) == pytest.approx(float(x), abs=1e-15)


def test_ditto_is_pulled_towards_the_global_model_and_reports_its_own(tmp_path: Path) -> None:
    run = Federation.make(tmp_path, correction="ditto:lam=1000", quorum=4, lr=0.0005)
    run.rounds_of([EVERYBODY] * 2)
    for index in EVERYBODY:
        own = float(run.carried(f"site-{index}").sets["personal"]["x"])
        assert abs(own - run.x) < 0.01
    metrics = run.run.closed("worker_metrics")[0][0]
    assert "eval.personal.loss" in metrics
