"""What is given away, and what limits it, for any numbers: no epsilon is passed, no order or piece matters."""

import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from privacy import (
    RING64_STEP,
    Budget,
    GaussianNoise,
    Ring,
    delta_of,
    epsilon_of,
    mu2_of,
    mu_of,
    noise_for,
    norm_of,
    scale_to,
)

KEY = bytes(range(32))
NOISES = st.floats(0.2, 100)
DELTAS = st.floats(1e-12, 0.1)


@given(epsilon=st.floats(0.01, 50), delta=DELTAS, rounds=st.integers(1, 500))
def test_that_noise_keeps_within_its_epsilon_and_hardly_less_does_not(
    epsilon: float, delta: float, rounds: int
) -> None:
    noise = noise_for(epsilon, delta, rounds)
    assert epsilon_of(delta, mu_of([noise] * rounds)) <= epsilon
    assert epsilon_of(delta, mu_of([noise * (1 - 1e-6)] * rounds)) > epsilon


@given(noises=st.lists(NOISES, max_size=30), delta=DELTAS)
def test_releases_add_up_alike_in_any_order(noises: list[float], delta: float) -> None:
    assert mu2_of(noises) == mu2_of(sorted(noises)) == mu2_of(reversed(noises))
    assert epsilon_of(delta, mu_of(noises)) >= epsilon_of(delta, mu_of(noises[1:]))


@given(noise=NOISES, delta=DELTAS)
def test_epsilon_and_delta_are_each_others_inverse(noise: float, delta: float) -> None:
    mu = mu_of([noise])
    epsilon = epsilon_of(delta, mu)
    assert delta_of(epsilon, mu) <= delta
    if epsilon > 0:
        assert delta_of(epsilon * (1 - 1e-9), mu) > delta


@given(epsilon=st.floats(0.1, 30), delta=st.floats(1e-10, 0.01), releases=st.integers(1, 300))
def test_the_noise_that_was_asked_for_lasts_for_its_rounds(epsilon: float, delta: float, releases: int) -> None:
    noise = noise_for(epsilon, delta, releases)
    assert Budget(clip=1.0, noise=noise, epsilon=epsilon, delta=delta).releases_left == releases


@given(start=st.integers(0, 100_000), count=st.integers(0, 50_000), at=st.integers(0, 50_000))
def test_no_bit_depends_on_the_pieces_it_is_made_in(start: int, count: int, at: int) -> None:
    noise = GaussianNoise(KEY, 12345.678)
    at = min(at, count)
    whole = noise.at(start, count)
    assert len(whole) == count
    assert np.array_equal(np.concatenate([noise.at(start, at), noise.at(start + at, count - at)]), whole)


@given(
    elements=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300),
    splits=st.lists(st.integers(0, 300), max_size=3),
    clip=st.floats(1e-3, 100),
    step=st.sampled_from([RING64_STEP, 2.0**-20, 2.0**-10]),
)
def test_what_is_sent_of_a_clipped_update_is_never_longer_than_the_clip(
    elements: list[float], splits: list[int], clip: float, step: float
) -> None:
    """In whole numbers, so exactly; and not much shorter, where it was longer than the clip."""
    tensors = np.split(np.array(elements, np.float32), sorted(splits))
    norm = norm_of(tensors)
    ring = Ring(bits=64, step=step, most=2.0**20)
    sent = [ring.integers(tensor, weight=scale_to(clip, norm)) for tensor in tensors]
    square = sum(int(number) ** 2 for tensor in sent for number in tensor)
    most = Fraction(clip) / Fraction(step)
    assert square <= most**2
    if norm > clip:
        assert math.sqrt(square) * step >= clip * (1 - 1e-9) - step * math.sqrt(len(elements))
