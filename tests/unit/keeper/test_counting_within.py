"""A clip that adapts, with a keeper's noise: how many updates were within it has noise of its own; both are paid."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from unit.keeper.asking import HALVES, RUN, SITES, WORDS, Asking, mask_sum, request, seed

from broker.wire import EXTRA_STEP
from keeper import Noise
from keeper.ledger import LEDGER
from privacy import GaussianNoise, count_draw, count_noise, model_noise, release_key

Z, CLIP, STEP, PLACE = 0.3, 0.5, 2.0**-20, 7
DP = Noise(multiplier=Z, epsilon=100.0, delta=1e-5)


def adaptive(name: str, number: int = 1, **changes: object) -> bytes:
    return seed(name, number, **({"clip": CLIP, "step": STEP, "noise": Z, "within_at": PLACE} | changes))


def test_the_count_has_noise_of_its_own_and_the_rest_as_much_more_as_that_costs(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=DP)
    answer = asking.ask(request([adaptive(name) for name in SITES]))
    sigma = model_noise(Z, len(SITES)) * CLIP / STEP
    assert answer.head.noise == sigma > Z * CLIP / STEP
    digest, secret = bytes.fromhex(answer.head.set_sha256), asking.ledger.noise_secret
    noise = GaussianNoise(release_key(secret, run_id=RUN, round_number=1, digest=digest), sigma).at(0, WORDS + HALVES)
    (words, halves), (all_words, all_halves) = answer.sums, mask_sum(SITES)
    drawn = (all_words - words).view(np.int64)
    count = count_draw(secret, run_id=RUN, round_number=1, digest=digest, sigma=count_noise(len(SITES)) / EXTRA_STEP)
    assert drawn[PLACE] == count != noise[PLACE]
    drawn[PLACE] = noise[PLACE]
    assert np.array_equal(drawn, noise[:WORDS])
    assert np.array_equal((all_halves - halves).view(np.int32), noise[WORDS:])
    assert asking.ledger.noises() == {Z: 1}


def test_counts_of_many_rounds_are_spread_as_was_said(tmp_path: Path) -> None:
    """A standard deviation of n/20 updates; of 300 draws it is within 20 %."""
    sigma = count_noise(4) / EXTRA_STEP
    draws = [
        count_draw(bytes(32), run_id=RUN, round_number=number, digest=bytes(32), sigma=sigma) for number in range(300)
    ]
    assert np.std(draws) * EXTRA_STEP == pytest.approx(4 / 20, rel=0.2)


def test_the_same_request_gets_the_same_bytes_whatever_is_set_since(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=DP)
    body = request([adaptive(name) for name in SITES])
    first = asking.ask(body)
    for noise in (DP, Noise(multiplier=0.1, epsilon=1.0, delta=1e-6), None):
        asking.begin(noise=noise)
        assert asking.ask(body) == first


def test_with_too_few_updates_for_it_nothing_is_given_or_charged(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=Noise(multiplier=0.4, epsilon=100.0, delta=1e-5))
    refusal = asking.ask(request([adaptive(name) for name in SITES])).refusal
    assert "an adaptive clip at noise 0.4 needs at least 5 workers in a round, not 4" in refusal.reason
    assert asking.ledger.num_releases() == 0


def test_updates_that_say_it_in_different_places_or_not_at_all_are_refused_by_name(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=DP)
    for other in (PLACE + 1, None):
        messages = [adaptive(SITES[0], within_at=other), *map(adaptive, SITES[1:])]
        reason = asking.ask(request(messages)).refusal.reason
        assert "not clipped alike" in reason
        assert f": {SITES[0]}" in reason
    assert asking.ledger.num_releases() == 0


@pytest.mark.parametrize("changes", [{"within_at": WORDS}, {"clip": None, "step": None}])
def test_a_place_that_is_none_is_no_message(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="within_at is the place of an integer of 8 bytes, beside a clip"):
        adaptive(SITES[0], **changes)


def test_a_ledger_from_before_there_were_any_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=DP)
    body = request([seed(name, clip=CLIP, step=STEP) for name in SITES])
    first = asking.ask(body)
    asking.ledger.close()
    with closing(sqlite3.connect(tmp_path / LEDGER)) as ledger:
        ledger.executescript("ALTER TABLE releases DROP COLUMN within_at; PRAGMA user_version = 1;")
    asking.begin()
    assert asking.ask(body) == first
    assert asking.ask(request([adaptive(name, 2) for name in SITES], 2)).head.noise == pytest.approx(
        model_noise(Z, 4) * CLIP / STEP
    )
