"""Andrew et al. 2021: the clip follows the norms' quantile, at no cost beyond that of the round."""

import math

import pytest

from console import parse_named, text_of_named
from privacy import AdaptiveClip, count_noise, model_noise, share_within


@pytest.mark.parametrize(
    ("noise", "workers", "expected"),
    [(1, 100, 1.005037815259), (1, 20, 1.154700538379), (5, 100, 5.773502691896)],
)
def test_the_noise_of_update_and_count_together_cost_what_the_round_does(
    noise: float, workers: int, expected: float
) -> None:
    found = model_noise(noise, workers)
    assert found == pytest.approx(expected, abs=6e-13)
    assert 1 / found**2 + 1 / (2 * count_noise(workers)) ** 2 == pytest.approx(1 / noise**2, rel=1e-12)


def test_the_clip_moves_towards_the_quantile() -> None:
    clip = AdaptiveClip()
    assert clip.next_clip(0.1, 0.8) == pytest.approx(0.094176453358, abs=6e-13)
    assert clip.next_clip(0.1, 0.5) == 0.1
    assert clip.next_clip(0.1, 0.2) == pytest.approx(0.1 * math.exp(0.06), rel=1e-15)
    norms, clipped_at = [0.01 * k for k in range(1, 101)], 0.1
    for _ in range(200):
        share = sum(norm <= clipped_at for norm in norms) / len(norms)
        clipped_at = AdaptiveClip(quantile=0.9).next_clip(clipped_at, share)
    assert clipped_at == pytest.approx(0.9, abs=0.03)


def test_a_share_that_noise_brought_out_of_range_moves_the_clip_no_further_than_all_or_none() -> None:
    clip = AdaptiveClip()
    assert clip.next_clip(0.1, 7.0) == clip.next_clip(0.1, 1.0)
    assert clip.next_clip(0.1, -7.0) == clip.next_clip(0.1, 0.0)
    assert share_within(30.0, 100) == 0.8


def test_noise_that_the_count_alone_uses_up_is_refused_with_the_number_that_it_takes() -> None:
    with pytest.raises(ValueError, match="at noise 5 needs at least 51 workers in a round, not 50"):
        model_noise(5, 50)
    assert model_noise(5, 51) > 5


def test_it_is_one_text_among_settings() -> None:
    kinds = {"adaptive": AdaptiveClip}
    found = parse_named("adaptive:0.3,rate=0.1", kinds, unnamed={"adaptive": "quantile"})
    assert found == AdaptiveClip(quantile=0.3, rate=0.1)
    assert text_of_named(found, kinds) == "adaptive:quantile=0.3,rate=0.1"


@pytest.mark.parametrize("changed", [{"quantile": 1.1}, {"start": 0.0}, {"rate": 0.0}, {"start": math.inf}])
def test_numbers_that_make_no_sense_are_refused(changed: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changed))} must be"):
        AdaptiveClip(**changed)
