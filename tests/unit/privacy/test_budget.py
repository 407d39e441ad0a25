"""A budget says before a round whether one more release is within it, and afterwards what was given away."""

import math

import pytest

from privacy import Budget, epsilon_of, mu_of


def budget(*, noise: float = 5.0, epsilon: float = 8.0, delta: float = 1e-5, spent_mu2: float = 0.0) -> Budget:
    return Budget(clip=1.0, noise=noise, epsilon=epsilon, delta=delta, spent_mu2=spent_mu2)


def after(releases: int, full: Budget) -> Budget:
    for _ in range(releases):
        full = full.charged()
    return full


def test_fifty_releases_cost_what_the_accountant_says_and_are_told_with_unit_and_delta() -> None:
    used = after(50, budget())
    assert used.mu2 == pytest.approx(2.0)
    assert used.epsilon_so_far == pytest.approx(6.572970067030, abs=6e-13)
    assert used.epsilon_replaced_so_far == pytest.approx(15.456155822609, abs=6e-13)
    assert str(used) == "epsilon 6.57 at delta 1e-05 (unit: one worker, zeroed out or not; 50 releases)"
    assert str(after(1, budget())).endswith("; 1 release)")
    assert str(budget(spent_mu2=2.0)).endswith("; 0 releases, and mu^2 2 spent before)")


def test_rounds_are_released_until_the_next_would_pass_the_limit() -> None:
    rounds, left = budget(), []
    while rounds.may_release_another():
        left.append(rounds.releases_left)
        rounds = rounds.charged()
    assert left == list(range(len(left), 0, -1))
    assert rounds.releases_left == 0
    assert rounds.epsilon_so_far <= 8 < rounds.charged().epsilon_so_far


def test_charges_with_other_noise_count_as_what_they_were() -> None:
    mixed = budget().charged(1.0).charged().charged(20.0)
    assert mixed.epsilon_so_far == epsilon_of(1e-5, mu_of([1.0, 5.0, 20.0]))


def test_a_second_run_on_the_same_data_goes_on_where_the_first_ended() -> None:
    first = after(30, budget())
    second = after(20, budget(spent_mu2=first.mu2))
    assert second.epsilon_so_far == pytest.approx(after(50, budget()).epsilon_so_far, rel=1e-14)
    assert budget(spent_mu2=after(75, budget()).mu2).may_release_another() is False


def test_what_is_left_is_counted_exactly_also_in_millions() -> None:
    much = budget(noise=1e4)
    count = much.releases_left
    assert count > 10**8
    assert epsilon_of(1e-5, math.sqrt(count) / 1e4) <= 8.0
    assert epsilon_of(1e-5, math.sqrt(count * (1 + 1e-9)) / 1e4) > 8.0 - 1e-6


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"clip": 0.0}, "the clip must be above 0"),
        ({"clip": math.inf}, "the clip must be above 0"),
        ({"noise": 0.0}, "noise must be from"),
        ({"epsilon": -1.0}, "epsilon must be above 0"),
        ({"delta": 1.0}, "delta must be above 0 and below 1"),
        ({"spent_mu2": -1.0}, "what was spent before"),
        ({"charges": {5.0: 1, 0.0: 1}}, "noise must be from"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(changed: dict[str, float], problem: str) -> None:
    right = {"clip": 1.0, "noise": 5.0, "epsilon": 8.0, "delta": 1e-5}
    with pytest.raises(ValueError, match=problem):
        Budget(**{**right, **changed})  # type: ignore[arg-type]
