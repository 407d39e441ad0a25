"""Masks: their golden numbers, that they hide what they lie over, and that sums of them come off again."""

import secrets

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy import SEED_BYTES, Mask, fresh_seed

KEYSTREAM = [0xD09F492AB60090F2, 0x80772EDD6A9AF3A9, 0xE59FB94AAE765DF0, 0x3D36C248319BF6A6]
DELTAS = [[1, -2, 2**40], [5, 7, -(2**40)], [-6, 0, 3]]
MASKED = [
    [0x898940A278C095DD, 0x8720849214A248AB, 0xB93646C7FB8A0F53],
    [0xAD1E0365A5CA9877, 0x7863A63ED223CECD, 0xCD39B54489AEA8AE],
    [0x94A1E4A311A135EE, 0xDE41A2C512F91949, 0x0AAE8BD9435F756E],
]
MASK_SUM = [0xCB4928AB302C6442, 0xDDC5CD95F9BF30BC, 0x911E87E5C8982D6C]
CHI_SQUARE_255 = (186.0, 334.0)
"""256 values, 255 degrees of freedom: outside of this once in 2,000 times on each side."""


def masked(words: NDArray[np.uint64], seed: bytes, offset: int = 0) -> NDArray[np.uint64]:
    copy = words.copy()
    Mask(seed).add_to(copy, offset)
    return copy


def chi_square(data: bytes) -> float:
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def test_the_keystream_is_aes_256_in_counter_mode_from_0() -> None:
    assert masked(np.zeros(4, np.uint64), bytes(range(32))).tolist() == KEYSTREAM


def test_three_masked_updates_add_up_to_the_sum_that_their_masks_come_off_of() -> None:
    deltas = [np.array(delta, np.int64).view(np.uint64) for delta in DELTAS]
    seeds = [bytes([number]) * 32 for number in range(3)]
    bodies = [masked(delta, seed) for delta, seed in zip(deltas, seeds, strict=True)]
    assert [body.tolist() for body in bodies] == MASKED
    mask_sum = np.zeros(3, np.uint64)
    for seed in seeds:
        Mask(seed).add_to(mask_sum, 0)
    assert mask_sum.tolist() == MASK_SUM
    total = bodies[2] + bodies[0] + bodies[1]
    assert (total - mask_sum).view(np.int64).tolist() == [0, 5, 3]


@given(st.integers(0, 2**20), st.lists(st.integers(0, 40), max_size=4), st.booleans())
def test_any_stretch_of_a_mask_is_the_same_as_within_all_of_it(begin: int, sizes: list[int], is_fresh: bool) -> None:
    """Stretches of 8 and 4 bytes, one after the other, or each by a mask that begins there."""
    mask = Mask(bytes(32))
    offset = 4 * begin
    whole = np.zeros(offset // 4 + 2 * sum(sizes) + 8, np.uint32)
    Mask(bytes(32)).add_to(whole, 0)
    for number, size in enumerate(sizes):
        some = np.zeros(size, np.uint64 if number % 2 else np.uint32)
        (Mask(bytes(32)) if is_fresh else mask).add_to(some, offset)
        assert some.tobytes() == whole.tobytes()[offset : offset + some.nbytes]
        offset += some.nbytes


def test_a_mask_longer_than_a_piece_is_seamless() -> None:
    words = np.zeros(100_000, np.uint64)
    Mask(bytes(32)).add_to(words, 0)
    for place in (0, 1, 16_383, 16_384, 65_535, 99_998):
        assert words[place] == masked(np.zeros(1, np.uint64), bytes(32), offset=8 * place)[0]


@pytest.mark.parametrize("value", [0, 1, 2**40, -1])
def test_a_masked_body_looks_like_noise_whatever_is_in_it(value: int) -> None:
    """The mask's seed is fixed, so that this test says the same each time."""
    words = np.full(2**15, value, np.int64).view(np.uint64)
    body = masked(words, bytes(range(32))).tobytes()
    low, high = CHI_SQUARE_255
    assert low < chi_square(body) < high
    assert chi_square(words.tobytes()) > 1000 * high


def test_two_sends_of_one_update_differ_everywhere() -> None:
    """Each byte is the same by chance in one of 256 places, each word in none."""
    words = np.arange(2**15, dtype=np.uint64)
    first, second = masked(words, fresh_seed()), masked(words, fresh_seed())
    assert not (first == second).any()
    low, high = CHI_SQUARE_255
    assert low / 2 < chi_square((first - second).tobytes()) < high * 2


def test_seeds_are_never_the_same() -> None:
    assert len({fresh_seed() for _ in range(100)}) == 100
    assert {len(fresh_seed()) for _ in range(100)} == {SEED_BYTES}


def test_what_cannot_be_masked_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 16"):
        Mask(secrets.token_bytes(16))
    with pytest.raises(ValueError, match="not to int64"):
        Mask(bytes(32)).add_to(np.zeros(3, np.int64), 0)
    with pytest.raises(ValueError, match="not to float32"):
        Mask(bytes(32)).add_to(np.zeros(3, np.float32), 0)
