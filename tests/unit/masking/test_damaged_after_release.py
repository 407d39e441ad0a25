"""A masked round whose model is damaged is made again from its own set: keepers give no other, and that once more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.aggregator.embedded_run import state_of
from unit.masking.kept_run import KeptRun

from keeper import Noise

INITIAL = state_of(w=torch.zeros(40), b=torch.zeros(3))
SITES = tuple(f"site-{index:02}" for index in range(12))
PLAIN: dict[str, Any] = {"quorum": "12"}
NOISED: dict[str, Any] = PLAIN | {
    "weighting": "uniform",
    "dp_clip": "adaptive:0.5:0.8",
    "dp_noise": 1.0,
    "dp_epsilon": 50.0,
    "dp_delta": 1e-5,
    "min_updates": 12,
}


@pytest.fixture(params=[PLAIN, NOISED], ids=["without noise", "with noise and an adaptive clip"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeptRun]:
    noise = Noise(1.0, 50.0, 1e-5) if "dp_noise" in request.param else None
    run = KeptRun.make(tmp_path, INITIAL, sites=SITES, noise=noise, keep_every=1, **request.param)
    yield run
    run.close()


def send_all(kept: KeptRun, value: float) -> None:
    for index, site in enumerate(SITES):
        delta = state_of(w=torch.full((40,), value * index), b=torch.ones(3))
        kept.masked.send(site, delta, weight=1.0 if kept.noise else 1.0 + index, is_within=index < 5)
    kept.settle()


def model(kept: KeptRun, number: int) -> Path:
    return kept.masked.run.folder / "models" / f"round-{number:05}.safetensors"


def damage(path: Path) -> bytes:
    """Changes its last byte; returns what it was."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


def lose_stream(kept: KeptRun) -> None:
    """The broker has no model any more, from which one that is damaged could be read back."""
    kept.masked.run.broker.heads.clear()


def sums(kept: KeptRun) -> list[Path]:
    return sorted(kept.masked.run.folder.glob("sum-*"))


def clip(kept: KeptRun) -> float | None:
    return None if kept.masked.head.privacy is None else kept.masked.head.privacy.clip


def test_the_round_has_the_same_bits_again_without_any_worker_and_nothing_more_is_charged(kept: KeptRun) -> None:
    for value in (0.01, 0.02):
        send_all(kept, value)
    whole, head, given = damage(model(kept, 2)), kept.masked.head, kept.releases("round, set_sha256")
    lose_stream(kept)
    kept.crash()
    assert kept.masked.head.round == 2
    kept.settle()
    assert model(kept, 2).read_bytes() == whole
    again = kept.masked.head
    assert (again.round, again.sha256, again.privacy) == (3, head.sha256, head.privacy)
    assert kept.releases("round, set_sha256") == given
    assert {verdict for _, verdict in kept.masked.run.verdicts()} == {"folded"}
    send_all(kept, 0.03)
    assert kept.masked.head.round == 4
    assert [number for number, _ in kept.masked.run.closed()] == [1, 2, 3]


def test_killed_anywhere_while_it_is_made_again_it_still_has_the_same_bits(kept: KeptRun) -> None:
    send_all(kept, 0.01)
    whole = damage(model(kept, 1))
    lose_stream(kept)
    kept.crash()  # it is decided again
    kept.crash()
    kept.serve()  # the keeper has answered
    kept.begin_keeper()
    kept.crash()
    kept.settle()
    assert model(kept, 1).read_bytes() == whole
    damage(model(kept, 1))  # and once more
    lose_stream(kept)
    kept.crash()
    kept.settle()
    assert model(kept, 1).read_bytes() == whole


def test_what_came_for_the_next_round_is_asked_for_again(kept: KeptRun) -> None:
    send_all(kept, 0.01)
    for site in SITES[:5]:
        kept.masked.send(site, state_of(w=torch.ones(40), b=torch.ones(3)), weight=1.0)
    kept.masked.run.aggregator._current.commit()
    whole = damage(model(kept, 1))
    lose_stream(kept)
    kept.crash()
    kept.settle()
    assert model(kept, 1).read_bytes() == whole
    assert kept.masked.run.num_folded == 0
    before = clip(kept)
    send_all(kept, 0.02)
    assert kept.masked.run.closed() == [(1, "quorum"), (2, "quorum")]
    assert before is None or clip(kept) != before


def test_models_damaged_in_a_row_and_a_lost_sum_change_nothing_while_the_broker_has_the_newest(kept: KeptRun) -> None:
    for value in (0.01, 0.02):
        send_all(kept, value)
    before, head, given = clip(kept), kept.masked.head, kept.releases("round, set_sha256")
    whole = [damage(model(kept, number)) for number in (1, 2)][-1]
    (file,) = sums(kept)
    file.unlink()
    kept.crash()
    kept.settle()
    assert model(kept, 2).read_bytes() == whole
    assert (kept.masked.head, clip(kept), kept.releases("round, set_sha256")) == (head, before, given)
    send_all(kept, 0.03)
    assert kept.masked.run.closed() == [(1, "quorum"), (2, "quorum"), (3, "quorum")]


def test_two_damaged_models_are_more_than_that_covers_and_the_older_round_is_abandoned(kept: KeptRun) -> None:
    for value in (0.01, 0.02):
        send_all(kept, value)
    before = clip(kept)
    for number in (1, 2):
        damage(model(kept, number))
    lose_stream(kept)
    kept.crash()
    assert kept.masked.head.round == 1
    send_all(kept, 0.03)
    assert kept.masked.run.closed() == [(1, "abandoned")]
    assert (
        "released for 12 updates" in kept.masked.run.query("SELECT reason FROM updates WHERE verdict='abandoned'")[0][0]
    )
    assert before is None or clip(kept) == 0.8


def test_without_the_sum_s_file_the_round_is_done_again_as_far_as_keepers_let_it(kept: KeptRun) -> None:
    send_all(kept, 0.01)
    (file,) = sums(kept)
    file.unlink()
    damage(model(kept, 1))
    lose_stream(kept)
    kept.crash()
    send_all(kept, 0.02)
    assert kept.masked.run.closed() == [(1, "abandoned")]
    send_all(kept, 0.02)
    assert kept.masked.run.closed() == [(1, "abandoned"), (2, "quorum")]


def test_one_sum_is_kept_at_a_time_and_none_after_the_run(tmp_path: Path) -> None:
    kept = KeptRun.make(tmp_path, INITIAL, sites=SITES, rounds=3, **PLAIN)
    for value in (0.01, 0.02):
        send_all(kept, value)
        assert len(sums(kept)) == 1
    send_all(kept, 0.03)
    assert kept.masked.run.aggregator.is_finished
    assert sums(kept) == []
    kept.close()
