"""A clip that adapts where updates are masked: the next one follows from a count that nobody has seen without noise."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of
from unit.masking.kept_run import KeptRun

from aggregator.settings import AggregatorSettings
from broker.states.tensors import State
from broker.wire import EXTRA_STEP, DifferentialPrivacy
from console import SettingsError, settings_of
from keeper import Noise
from privacy import AdaptiveClip, count_draw, count_noise, share_within

INITIAL = state_of(w=torch.zeros(500), b=torch.zeros(3))
SITES = tuple(f"site-{index:02}" for index in range(12))
DP: dict[str, Any] = {
    "privacy": "secure",
    "weighting": "uniform",
    "dp_clip": "adaptive:0.5:0.8",
    "dp_noise": 1.0,
    "dp_epsilon": 50.0,
    "dp_delta": 1e-5,
    "min_updates": 12,
    "quorum": "12",
    "rounds": 30,
}
KEEPERS = Noise(multiplier=1.0, epsilon=50.0, delta=1e-5)
LEAVES_RANGE = 1e44
"""A --server-lr with which any mean takes the model out of float32."""
DELTA: State = state_of(w=torch.full((500,), 1e-3), b=torch.zeros(3))


def begin(folder: Path, **changes: Any) -> KeptRun:
    return KeptRun.make(folder, INITIAL, sites=SITES, noise=KEEPERS, **(DP | changes))


def send_all(kept: KeptRun, num_within: int) -> None:
    for index, site in enumerate(SITES):
        kept.masked.send(site, DELTA, is_within=index < num_within)
    kept.settle()


def close_now(run: EmbeddedRun) -> None:
    current = run.aggregator._current
    current.follow(replace(current._standing, closes_now=True))
    run.settle()
    run.pass_time(1.0)


def privacy_of(kept: KeptRun) -> DifferentialPrivacy:
    assert kept.masked.head.privacy is not None
    return kept.masked.head.privacy


@pytest.mark.parametrize("ring", ["ring64", "ring32"])
@pytest.mark.parametrize("num_within", [12, 3, 0])
def test_the_next_clip_follows_from_the_noised_count_and_the_round_costs_what_it_should(
    tmp_path: Path, num_within: int, ring: str
) -> None:
    kept = begin(tmp_path, ring=ring)
    send_all(kept, num_within)
    ((run_id, set_sha256, noise, clip),) = kept.releases("run_id, set_sha256, noise, clip")
    draw = count_draw(
        kept.ledger.noise_secret,
        run_id=run_id,
        round_number=1,
        digest=bytes.fromhex(set_sha256),
        sigma=count_noise(12) / EXTRA_STEP,
    )
    share = share_within(num_within - 6 + draw * EXTRA_STEP, 12)
    assert privacy_of(kept).clip == AdaptiveClip(0.5, 0.8).next_clip(0.8, share)
    assert (noise, clip) == (1.0, 0.8)
    assert privacy_of(kept).spent == 1.0
    send_all(kept, num_within)
    assert kept.releases("round, clip")[1] == (2, AdaptiveClip(0.5, 0.8).next_clip(0.8, share))
    kept.close()


def test_a_kill_of_either_at_the_worst_time_changes_no_bit_of_model_and_clip(tmp_path: Path) -> None:
    kept = begin(tmp_path)
    for index, site in enumerate(SITES):
        kept.masked.send(site, DELTA, is_within=index < 3)
    kept.serve()  # the answer is out
    given = kept.releases("set_sha256, noise")
    kept.crash()
    kept.begin_keeper()
    kept.settle()
    once, model = privacy_of(kept).clip, kept.masked.run.model
    assert kept.masked.head.round == 2
    assert kept.releases("set_sha256, noise") == given
    kept.crash()
    kept.settle()
    assert privacy_of(kept).clip == once
    assert all(torch.equal(kept.masked.run.model[name], model[name]) for name in model)
    other = kept.masked.taken_over(tmp_path / "standby")
    assert other.head.privacy is not None
    assert other.head.privacy.clip == once
    kept.close()


def test_a_round_that_is_closed_with_too_few_updates_is_abandoned_and_the_clip_stays(tmp_path: Path) -> None:
    kept = begin(tmp_path)
    for site in SITES[:5]:
        kept.masked.send(site, DELTA)
    close_now(kept.masked.run)
    kept.settle()
    kept.masked.run.pass_time(1.0)
    assert kept.masked.run.closed("closed_by") == [("abandoned",)]
    assert privacy_of(kept).clip == 0.8
    assert kept.releases() == []
    kept.close()


def test_so_is_one_whose_noise_is_the_aggregator_s(tmp_path: Path) -> None:
    central = DP | {"privacy": "none", "dp_clip": "adaptive:0.5:0.8"}
    run = EmbeddedRun.make(tmp_path, StateTask(INITIAL), **central).start()
    for site in SITES[:5]:
        run.send(site, DELTA, train_s=0.0, figures={"within": 1.0})
    run.settle()
    close_now(run)
    assert run.closed("closed_by") == [("abandoned",)]
    assert run.head.privacy is not None
    assert run.head.privacy.clip == 0.8


def killed_at_its_close(run: EmbeddedRun) -> list[float | None]:
    """Has the aggregator killed when it commits the end of a round; the clips that were to be next are added here."""
    clips: list[float | None] = []

    def dies(*arguments: Any, **named: Any) -> None:
        clips.append(arguments[2].next_clip)
        raise KeyboardInterrupt

    run.aggregator._ledger.close_round = dies  # type: ignore[method-assign]
    return clips


def test_a_round_whose_model_leaves_its_range_is_abandoned_and_its_noised_count_moves_the_clip_once(
    tmp_path: Path,
) -> None:
    """The count had its noise, and that was charged: a kill before the commit or after it, and a takeover, keep it."""
    kept = begin(tmp_path, server_lr=LEAVES_RANGE)
    seen = killed_at_its_close(kept.masked.run)
    with pytest.raises(KeyboardInterrupt):
        send_all(kept, 3)
    kept.crash()
    kept.settle()
    assert kept.masked.run.closed("closed_by") == [("abandoned",)]
    (once,) = seen
    assert privacy_of(kept).clip == once != 0.8
    assert kept.releases("round, noise") == [(1, 1.0)]
    kept.crash()
    kept.settle()
    assert (kept.masked.head.round, privacy_of(kept).clip) == (2, once)
    other = kept.masked.taken_over(tmp_path / "standby")
    assert other.head.privacy is not None
    assert other.head.privacy.clip == once
    kept.close()


def test_so_does_the_count_with_the_aggregator_s_noise(tmp_path: Path) -> None:
    run = EmbeddedRun.make(
        tmp_path, StateTask(INITIAL), **(DP | {"privacy": "none", "server_lr": LEAVES_RANGE})
    ).start()
    seen = killed_at_its_close(run)
    with pytest.raises(KeyboardInterrupt):
        run.fold_all([(site, DELTA) for site in SITES], train_s=0.0, figures={"within": 1.0})
    run = run.crash().start()
    run.settle()
    assert run.closed("closed_by") == [("abandoned",)]
    assert run.head.privacy is not None
    assert [run.head.privacy.clip] == seen
    assert run.head.privacy.clip != 0.8
    assert len(run.query("SELECT * FROM releases")) == 1
    run.aggregator.close()


def test_a_clip_that_would_leave_its_noise_no_room_stays_where_it_has_some(tmp_path: Path) -> None:
    least = 2.0**-22  # 2^10 steps of 2^-32, with noise of 1
    kept = begin(tmp_path, dp_clip=f"adaptive:0.01:{least * 1.01!r}")
    for _ in range(3):
        send_all(kept, 12)
    assert least <= privacy_of(kept).clip < least * 1.001
    assert kept.masked.head.round == 4
    kept.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_updates": 10}, "needs at least 11 workers"),
        ({"dp_where": "workers"}, "whether an update was clipped would have no noise"),
    ],
    ids=["few", "local"],
)
def test_what_cannot_adapt_is_refused_before_it_begins(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        settings_of(AggregatorSettings, DP | {"keeper": "keeper", "roster": None} | changes)


@pytest.mark.parametrize("clip", ["1e-9", "5000", "adaptive:0.5:5000"])
def test_a_clip_whose_noise_has_no_room_is_refused_before_it_begins(tmp_path: Path, clip: str) -> None:
    with pytest.raises(SettingsError, match=r"have room for noise with a clip from 2\.38e-07 to"):
        begin(tmp_path, dp_clip=clip)


def test_the_clip_finds_the_median_of_norms(tmp_path: Path) -> None:
    """Norms of 0.01 to 0.12: from 0.8 it comes to where half of them are longer, as far as noise of n/20 lets it."""
    kept = begin(tmp_path, rounds=60, dp_epsilon=300.0, dp_clip="adaptive:0.5:0.2")
    kept.noise = Noise(1.0, 300.0, 1e-5)
    kept.begin_keeper()
    for _ in range(45):
        clip = privacy_of(kept).clip
        send_all(kept, sum(0.01 * k <= clip for k in range(1, 13)))
    assert 0.045 < privacy_of(kept).clip < 0.085
    assert math.isfinite(privacy_of(kept).spent)
    kept.close()
