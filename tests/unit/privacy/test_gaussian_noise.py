"""Noise that is Gaussian, whole, the same for the same sum, and the same on every machine."""

import hashlib
import math

import numpy as np
import pytest

from privacy import GaussianNoise, release_key, words
from privacy.normals import normals_of

KEY = bytes(range(32))
SECRET, DIGEST = bytes(range(32, 64)), bytes(range(64, 96))
DRAWS, PIECE = 10**7, 10**5


def test_the_keystream_is_aes_in_counter_mode_from_any_word_on() -> None:
    expected = [0xD09F492AB60090F2, 0x80772EDD6A9AF3A9, 0xE59FB94AAE765DF0, 0x3D36C248319BF6A6]
    assert words(KEY, 0, 4).tolist() == expected
    assert words(KEY, 1, 2).tolist() == expected[1:3]
    assert words(KEY, 3, 0).tolist() == []
    with pytest.raises(ValueError, match="a key has 32 bytes, not 16"):
        words(KEY[:16], 0, 4)


def test_ten_million_draws_have_the_variance_and_the_extremes_of_a_normal_distribution() -> None:
    """In pieces of 1e5, whose largest absolute value has the mean 4.5333 (integral of 1 - (2 Phi(x) - 1)^1e5)."""
    noise = GaussianNoise(KEY, 2.0**20)
    squares, fourths, maxima, total = 0.0, 0.0, [], 0
    for start in range(0, DRAWS, PIECE):
        drawn = noise.at(start, PIECE)
        total += int(drawn.sum())
        normal = drawn / 2.0**20
        squares += float((normal**2).sum())
        fourths += float((normal**4).sum())
        maxima.append(float(np.abs(normal).max()))
    assert squares / DRAWS == pytest.approx(1, rel=0.002)
    assert fourths / DRAWS == pytest.approx(3, rel=0.01)
    assert np.mean(maxima) == pytest.approx(4.5333, rel=0.01)
    assert max(maxima) < 6.5
    assert abs(total / 2.0**20 / DRAWS) < 0.001


def test_noise_is_spread_like_a_normal_distribution_and_neighbours_are_independent() -> None:
    normal = GaussianNoise(KEY, 2.0**30).at(0, 10**6) / 2.0**30
    for quantile, value in ((0.5, 0.0), (0.8413447, 1.0), (0.9772499, 2.0), (0.9986501, 3.0)):
        assert np.mean(normal <= value) == pytest.approx(quantile, abs=0.0015)
    for distance in (1, 2, 2**14):
        assert abs(np.mean(normal[distance:] * normal[:-distance])) < 0.004
        assert abs(np.mean(normal[distance:] ** 2 * normal[:-distance] ** 2) - 1) < 0.02


def test_the_bits_are_those_of_every_other_machine() -> None:
    drawn = GaussianNoise(KEY, 2.0**40).at(0, 100_000)
    assert drawn[:4].tolist() == [703392015629, -8045279452, 336943682455, 386483938202]
    assert (
        hashlib.sha256(drawn.astype("<i8").tobytes()).hexdigest()
        == "a93c908af104b9ea63c4c12145f62834c001128008394b374fb7e1cf68037282"
    )


def test_logarithm_and_sine_are_right_to_the_last_bits() -> None:
    """Beside NumPy's own, which are as exact as these, though not the same everywhere."""
    drawn = words(KEY, 0, 200_000).copy()
    drawn[:6] = [0, 0, 2**64 - 1, 2**64 - 1, 2**63, 2**61]
    radius = np.sqrt(-2 * np.log(((drawn[0::2] >> np.uint64(11)) + np.uint64(1)) * 2.0**-53))
    angle = ((drawn[1::2] >> np.uint64(11)) & np.uint64(2**50 - 1)) * 2.0**-50 * np.pi / 4
    first, second = normals_of(drawn).reshape(-1, 2).T
    larger, smaller = np.maximum(abs(first), abs(second)), np.minimum(abs(first), abs(second))
    assert np.abs(larger - radius * np.cos(angle)).max() < 5e-15
    assert np.abs(smaller - radius * np.sin(angle)).max() < 5e-15
    assert first[0] == larger.max() == pytest.approx(8.5717, abs=1e-4)


def test_three_bits_choose_one_eighth_of_the_circle_each() -> None:
    drawn = np.array([[2**63, (eighth << 61) + 2**60] for eighth in range(8)], dtype=np.uint64).ravel()
    first, second = normals_of(drawn).reshape(-1, 2).T
    degrees = np.degrees(np.arctan2(second, first)) % 360
    assert sorted(degrees.tolist()) == pytest.approx([22.5 + 45 * eighth for eighth in range(8)])


def test_a_key_belongs_to_one_secret_run_round_and_sum() -> None:
    def key(secret: bytes = SECRET, run: str = "run", number: int = 3, digest: bytes = DIGEST) -> bytes:
        return release_key(secret, run_id=run, round_number=number, digest=digest)

    assert key() == key()
    assert key().hex() == "15fba5067021d312a495450dced8dde814112c18456c82d05c8ad6735e379c2e"
    others = [key(secret=KEY), key(run="run2"), key(number=4), key(digest=KEY), key()]
    assert len(set(others)) == len(others)
    first, second = (GaussianNoise(one, 2.0**20).at(0, 10_000) for one in others[3:])
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_a_key_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes each, not 31 and 32"):
        release_key(SECRET[:31], run_id="run", round_number=1, digest=DIGEST)
    with pytest.raises(ValueError, match="no run's id"):
        release_key(SECRET, run_id="a\0b", round_number=1, digest=DIGEST)


@pytest.mark.parametrize("sigma", [0.0, 1023.9, 2.0**44 * 1.001, float("nan")])
def test_noise_that_the_grid_would_show_through_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"it must be from 2\^10 to 2\^44"):
        GaussianNoise(KEY, sigma)


def test_the_lowest_bits_of_the_largest_noise_are_even_and_odd_alike() -> None:
    """One draw of this size would be even in 0.1 % more of all cases, ten standard deviations of this mean."""
    noise = GaussianNoise(KEY, 2.0**44)
    odd = [int((noise.at(start, PIECE) & 1).sum()) for start in range(0, DRAWS, PIECE)]
    assert abs(sum(odd) / DRAWS - 0.5) < 4 * 0.5 / math.sqrt(DRAWS)
