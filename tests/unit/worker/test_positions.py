"""A head from before the newest one accepted is a replay, also after a restart."""

from pathlib import Path

import pytest

from broker.wire.messages import ModelHead
from console.errors import StateError
from worker.state.positions import Positions


def head(epoch: int, round_number: int, *, run_id: str = "r.1", began_at: float | None = 100.0) -> ModelHead:
    fields = {"tensors": (), "sha256": "0" * 64, "run": "r", "num_rounds": 9, "seed": 0}
    return ModelHead.model_validate(
        fields | {"run_id": run_id, "epoch": epoch, "round": round_number, "began_at": began_at}
    )


def test_the_first_head_and_the_same_one_again_are_no_replays(tmp_path: Path) -> None:
    positions = Positions(tmp_path / "newest-model.json")
    assert positions.replayed(head(1, 1)) is None
    positions.accept(head(1, 1))
    assert positions.replayed(head(1, 1)) is None


@pytest.mark.parametrize(("epoch", "round_number"), [(2, 4), (1, 9)])
def test_a_head_from_before_is_a_replay_after_a_restart_too(tmp_path: Path, epoch: int, round_number: int) -> None:
    Positions(tmp_path / "newest-model.json").accept(head(2, 5))
    replayed = Positions(tmp_path / "newest-model.json").replayed(head(epoch, round_number))
    assert replayed is not None
    assert "comes before epoch 2, round 5" in replayed


def test_an_aggregator_that_took_over_may_go_back_a_round() -> None:
    positions = Positions()
    positions.accept(head(2, 5))
    assert positions.replayed(head(3, 4)) is None


@pytest.mark.parametrize(("began_at", "is_replay"), [(99.0, True), (None, True), (101.0, False)])
def test_a_run_that_began_before_is_a_replay_and_a_later_one_is_not(began_at: float | None, is_replay: bool) -> None:
    positions = Positions()
    positions.accept(head(2, 5))
    assert (positions.replayed(head(9, 9, run_id="r.0", began_at=began_at)) is not None) == is_replay


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "newest-model.json").write_text("{", encoding="utf-8")
    with pytest.raises(StateError, match="restore it, or remove it"):
        Positions(tmp_path / "newest-model.json")
