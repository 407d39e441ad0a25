"""Golden numbers of the Gaussian mechanism under full participation, and dp-accounting as a referee."""

import importlib.util
import math
import os

import pytest

from privacy import count_noise, delta_of, epsilon_of, model_noise, mu2_of, mu_of, noise_for

IS_REFEREE_MISSING = importlib.util.find_spec("dp_accounting") is None and "FEDMQ_REQUIRE_BROKER" not in os.environ


@pytest.mark.parametrize(
    ("noise", "rounds", "epsilon"),
    [
        (1, 1, 4.377178095681),
        (10, 100, 4.377178095681),
        (5, 50, 6.572970067030),
        (5, 100, 9.997256146434),
        (0.5, 1, 9.997256146434),
        (20, 200, 2.943225239801),
        (4, 1, 0.926341503998),
    ],
)
def test_epsilon_is_the_exact_one(noise: float, rounds: int, epsilon: float) -> None:
    assert epsilon_of(1e-5, mu_of([noise] * rounds)) == pytest.approx(epsilon, abs=6e-13)


def test_a_worker_who_is_replaced_counts_twice_in_mu() -> None:
    assert epsilon_of(1e-5, 2 * mu_of([5.0] * 50)) == pytest.approx(15.456155822609, abs=6e-13)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(5, 0.00069960726767), (4, 0.00583801310997)], ids=["epsilon 5", "epsilon 4"]
)
def test_delta_is_the_exact_one(epsilon: float, delta: float) -> None:
    assert delta_of(epsilon, math.sqrt(2)) == pytest.approx(delta, abs=6e-15)


@pytest.mark.parametrize(
    ("epsilon", "mu", "delta_in_400_digits"),
    [
        (30, 5, 0.000131326271113),
        (100, 5, 1.58478023267e-69),
        (700, 20, 1.35666212775e-138),
        (5000, 100, 0.496010976019),
        (400, 10, 2.49698866891e-269),
    ],
)
def test_delta_is_exact_where_the_exponential_overflows(epsilon: float, mu: float, delta_in_400_digits: float) -> None:
    assert delta_of(epsilon, mu) == pytest.approx(delta_in_400_digits, rel=1e-10, abs=0)


@pytest.mark.parametrize(
    ("epsilon", "rounds", "noise"),
    [
        (8, 20, 2.684306015),
        (8, 50, 4.244260472),
        (8, 100, 6.002290722),
        (8, 200, 8.488520944),
        (1, 50, 26.379549271),
        (2, 50, 14.098383007),
        (4, 50, 7.644968754),
    ],
)
def test_the_noise_for_an_epsilon_is_the_least(epsilon: float, rounds: int, noise: float) -> None:
    assert noise_for(epsilon, 1e-5, rounds) == pytest.approx(noise, abs=6e-10)


def test_without_a_release_nothing_is_given_away() -> None:
    assert mu_of([]) == 0
    assert epsilon_of(1e-5, 0.0) == 0
    assert delta_of(0.0, 0.0) == 0


@pytest.mark.parametrize("mu", [1e-6, 0.1, 1.0, 30.0, 1e3, 1e6])
def test_epsilon_is_a_number_whatever_mu_is(mu: float) -> None:
    """Phi(mu/2 - epsilon/mu) alone, the larger part of delta, is 1e-5 at the larger bound, and 1e-4 at the smaller."""
    assert mu * (mu / 2 + 3.7190) - 10 * mu <= epsilon_of(1e-5, mu) <= mu * (mu / 2 + 4.2650)


def test_what_was_spent_before_is_there_from_the_start() -> None:
    assert mu_of([5.0] * 20, spent_mu2=30 / 25) == pytest.approx(mu_of([5.0] * 50), rel=1e-15)
    first = noise_for(8, 1e-5, 50)
    spent = mu2_of([first] * 20)
    assert noise_for(8, 1e-5, 30, spent_mu2=spent) == pytest.approx(first, rel=1e-12)
    with pytest.raises(ValueError, match=r"epsilon 8\.0000 already, which leaves nothing of 5"):
        noise_for(5, 1e-5, 1, spent_mu2=mu2_of([first] * 50))


@pytest.mark.parametrize("noise", [0.0, -1.0, 1e-9, 1e9, math.nan, math.inf])
def test_a_noise_that_nobody_can_mean_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match="noise must be from 1e-06 to 1e"):
        mu_of([5.0, noise])


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta must be above 0 and below 1"):
        epsilon_of(delta, 1.0)
    with pytest.raises(ValueError, match="delta must be above 0 and below 1"):
        noise_for(8, delta, 50)


@pytest.mark.skipif(IS_REFEREE_MISSING, reason="dp-accounting is not installed: pip install dp-accounting==0.6.0")
@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (5.0, 50), (5.0, 100), (20.0, 200)])
@pytest.mark.parametrize("is_replaced", [False, True], ids=["zeroed out", "replaced"])
def test_dp_accounting_finds_the_same(noise: float, rounds: int, is_replaced: bool) -> None:
    """Its privacy loss distribution is a grid of 1e-4, which it rounds up on: by some 1e-8 of epsilon here."""
    from dp_accounting import NeighboringRelation, dp_event
    from dp_accounting.pld import PLDAccountant

    relation = NeighboringRelation.REPLACE_ONE if is_replaced else NeighboringRelation.REPLACE_SPECIAL
    referee = PLDAccountant(relation)
    referee.compose(dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(noise), rounds))
    ours = epsilon_of(1e-5, mu_of([noise] * rounds) * (2 if is_replaced else 1))
    assert ours <= referee.get_epsilon(1e-5)
    assert ours == pytest.approx(referee.get_epsilon(1e-5), abs=2e-8)


@pytest.mark.skipif(IS_REFEREE_MISSING, reason="dp-accounting is not installed: pip install dp-accounting==0.6.0")
@pytest.mark.parametrize(("noise", "workers", "rounds"), [(1.0, 20, 3), (5.0, 100, 50)])
def test_dp_accounting_finds_that_an_adaptive_clip_costs_what_a_fixed_one_does(
    noise: float, workers: int, rounds: int
) -> None:
    """Each round is two releases: the sum of updates, and of b - 1/2, of which one worker changes 1/2 at most."""
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    of_sum = dp_event.GaussianDpEvent(model_noise(noise, workers))
    of_count = dp_event.GaussianDpEvent(2 * count_noise(workers))
    referee = PLDAccountant()
    referee.compose(dp_event.SelfComposedDpEvent(dp_event.ComposedDpEvent([of_sum, of_count]), rounds))
    ours = epsilon_of(1e-5, mu_of([noise] * rounds))
    assert ours == pytest.approx(referee.get_epsilon(1e-5), abs=1e-7)
