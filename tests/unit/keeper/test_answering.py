"""A keeper gives the sum of all masks of a set once, to the bit, and again to whoever asks the very same."""

from pathlib import Path

import numpy as np
import pytest
from unit.keeper.asking import (
    FEDERATION,
    HALVES,
    KEEPER,
    RUN,
    SITES,
    WORDS,
    Answer,
    Asking,
    mask_sum,
    masked_of,
    request,
    seed,
)

from broker.wire import digest_of_set
from keeper import Noise
from keeper.events import Charged, Expanded, Released
from privacy import GaussianNoise, release_key

SEEDS = [seed(name) for name in SITES]
DP = Noise(multiplier=5.0, epsilon=8.0, delta=1e-5)
CLIP, STEP = 0.5, 2.0**-20


def noised(name: str, number: int = 1, **changes: object) -> bytes:
    return seed(name, number, **({"clip": CLIP, "step": STEP} | changes))


def is_sum_of(answer: Answer, workers: tuple[str, ...], number: int = 1) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(answer.sums, mask_sum(workers, number), strict=True))


def test_the_sum_of_all_masks_is_released_with_who_is_in_it(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    answer = asking.ask(request(SEEDS))
    assert is_sum_of(answer, SITES)
    head = answer.head
    assert (head.run_id, head.round, head.keeper, head.noise) == (RUN, 1, KEEPER, None)
    assert (head.num_updates, head.num_sites) == (4, 4)
    assert head.set_sha256 == digest_of_set(RUN, 1, [(name, masked_of(name)) for name in SITES])
    assert [(spec.name, spec.num_elements) for spec in head.tensors] == [("words", WORDS), ("halves", HALVES)]
    assert asking.broker.shards[KEEPER] == type(asking.broker.shards[KEEPER])()  # acked


def test_a_large_sum_is_a_blob_and_the_same_sum(tmp_path: Path) -> None:
    asking = Asking(tmp_path, inline_cap=1000)
    answer = asking.ask(request(SEEDS))
    assert answer.head.blob is not None
    assert answer.head.blob.name == f"updates.blob.release.{KEEPER}.{RUN}.1"
    assert is_sum_of(answer, SITES)


def test_the_golden_sum_of_masks_is_given(tmp_path: Path) -> None:
    sizes = {"num_words": 3, "num_halves": 0}
    names = SITES[:3]
    messages = [seed(name, secret=bytes([index]) * 32, **sizes) for index, name in enumerate(names)]
    words, _ = Asking(tmp_path).ask(request(messages, **sizes)).sums
    assert [f"{word:016x}" for word in words] == ["cb4928ab302c6442", "ddc5cd95f9bf30bc", "911e87e5c8982d6c"]


@pytest.mark.parametrize("noise", [None, DP], ids=["without noise", "with noise"])
def test_the_same_request_gets_the_same_bytes_again_also_from_the_next_process(tmp_path: Path, noise: Noise) -> None:
    asking = Asking(tmp_path, noise=noise)
    body = request([noised(name) for name in SITES])
    first = asking.ask(body)
    assert asking.ask(body) == first
    asking.begin()
    assert asking.ask(body) == first
    assert asking.ledger.num_releases() == 1
    given = [event.is_repeat for event in asking.events if isinstance(event, Released)]
    assert given == [False, True, True]


def test_noise_goes_on_as_the_ledger_has_it_whatever_is_set_since(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=DP)
    body = request([noised(name) for name in SITES])
    first = asking.ask(body)
    asking.begin(noise=Noise(multiplier=7.0, epsilon=1.0, delta=1e-6))
    assert asking.ask(body) == first
    asking.begin(noise=None)
    assert asking.ask(body) == first


def test_a_key_that_is_revoked_later_does_not_hold_back_what_was_given(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    body = request(SEEDS)
    first = asking.ask(body)
    asking.rosters.roster = FEDERATION.roster.without([SITES[0]])
    assert asking.ask(body) == first


def test_masks_are_expanded_ahead_and_those_that_the_set_leaves_out_are_taken_off(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    asking.send(request(SEEDS[:1], is_offer=True), request(SEEDS[1:], is_offer=True), request(SEEDS[:2], is_offer=True))
    asking.steps()
    assert asking.answers() == []
    expanded = [event.num_masks for event in asking.events if isinstance(event, Expanded)]
    assert expanded == [1, 4, 4]
    assert is_sum_of(asking.ask(request(SEEDS[1:])), SITES[1:])


def test_offers_for_another_round_or_after_a_kill_change_no_bit(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    asking.send(request(SEEDS, is_offer=True))
    asking.steps()
    asking.send(request([seed(SITES[0], 2)], 2, is_offer=True))
    asking.steps()
    first = asking.ask(request(SEEDS))
    asking.begin()
    assert asking.ask(request(SEEDS)) == first
    assert is_sum_of(first, SITES)
    assert is_sum_of(asking.ask(request([seed(name, 2) for name in SITES], 2)), SITES, 2)


def test_the_noise_is_the_keeper_s_own_bound_to_the_set_and_in_the_sum_once_it_is_taken_off(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=DP)
    answer = asking.ask(request([noised(name) for name in SITES]))
    sigma = DP.multiplier * CLIP / STEP
    assert answer.head.noise == sigma
    digest = bytes.fromhex(answer.head.set_sha256)
    key = release_key(asking.ledger.noise_secret, run_id=RUN, round_number=1, digest=digest)
    noise = GaussianNoise(key, sigma).at(0, WORDS + HALVES)
    (words, halves), (all_words, all_halves) = answer.sums, mask_sum(SITES)
    assert np.array_equal((all_words - words).view(np.int64), noise[:WORDS])
    assert np.array_equal((all_halves - halves).view(np.int32), noise[WORDS:])
    assert np.std(noise) == pytest.approx(sigma, rel=0.02)


def test_two_keepers_draw_noise_of_their_own(tmp_path: Path) -> None:
    body = request([noised(name) for name in SITES])
    one, other = (Asking(tmp_path / name, noise=DP).ask(body) for name in "ab")
    assert one.payload != other.payload
    assert one.head.noise == other.head.noise


def test_the_budget_is_charged_for_each_round_and_told(tmp_path: Path) -> None:
    asking = Asking(tmp_path, noise=DP)
    for number in (1, 2):
        asking.ask(request([noised(name, number) for name in SITES], number))
    charged = [event for event in asking.events if isinstance(event, Charged)]
    assert [event.releases_left for event in charged] == [charged[0].releases_left - used for used in range(3)]
    assert charged[0].epsilon == 0 < charged[1].epsilon < charged[2].epsilon
