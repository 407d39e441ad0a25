"""What the headers accept and what they refuse."""

from typing import Any

import pytest
from pydantic import ValidationError

from broker.wire.messages import (
    MAX_NUM_SAMPLES,
    MAX_PART_BYTES,
    BlobRef,
    LocalTraining,
    ModelHead,
    Presence,
    UpdateHead,
)
from broker.wire.specs import TensorSpec

UPDATE: dict[str, Any] = {
    "tensors": (TensorSpec("w", "float32", (2,)),),
    "sha256": "0" * 64,
    "run_id": "demo.00112233",
    "worker": "site-a",
    "instance": "00112233",
    "round": 1,
    "num_samples": 1,
    "train_s": 0,
    "sent_at": 0,
}
MODEL: dict[str, Any] = {
    "tensors": (),
    "sha256": "0" * 64,
    "run": "demo",
    "run_id": "demo.00112233",
    "epoch": 0,
    "round": 1,
    "num_rounds": 1,
    "seed": 0,
}


def update(**changes: Any) -> UpdateHead:
    return UpdateHead.model_validate(UPDATE | changes)


def model(**changes: Any) -> ModelHead:
    return ModelHead.model_validate(MODEL | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"worker": ""},
        {"worker": "a.b"},
        {"worker": "a" * 65},
        {"worker": "site\n"},
        {"instance": "xyz"},
        {"run_id": "a/b"},
        {"round": -1},
        {"round": 1.0},
        {"round": True},
        {"round": 2**40},
        {"num_samples": 0},
        {"num_samples": MAX_NUM_SAMPLES + 1},
        {"num_samples": 1.5},
        {"num_samples": "3"},
        {"train_s": -1},
        {"train_s": float("nan")},
        {"sent_at": 1e12},
        {"sha256": "0" * 63},
        {"sha256": "A" * 64},
        {"train_metrics": {"loss": float("inf")}},
        {"train_metrics": {"a loss": 1.0}},
        {"train_metrics": {"": 1.0}},
        {"train_metrics": {f"m{number}": 1.0 for number in range(65)}},
        {"tensors": [["w", "float32", [-1]]]},
        {"tensors": [["w", "float32", [2**40]]]},
        {"tensors": [["w", "float32", [1.0]]]},
        {"tensors": [["w", "float32", [True]]]},
        {"tensors": [["w", "float32", [1] * 17]]},
        {"tensors": [["w", "complex64", [1]]]},
        {"tensors": [["", "float32", [1]]]},
        {"tensors": [["w" * 513, "float32", [1]]]},
        {"tensors": [["w", "float32"]]},
        {"tensors": [["w", "float32", [], 1]]},
        {"blob": {"name": "a b", "part_bytes": 8}},
        {"blob": {"name": "", "part_bytes": 8}},
        {"blob": {"name": "a", "part_bytes": 12}},
        {"blob": {"name": "a", "part_bytes": 0}},
        {"blob": {"name": "a", "part_bytes": MAX_PART_BYTES + 8}},
        {"kind": "model"},
        {"surprise": 1},
    ],
)
def test_an_update_with_a_field_out_of_its_range_is_refused(changes: dict[str, Any]) -> None:
    update()
    with pytest.raises(ValidationError):
        update(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"is_finished": 1},
        {"seed": -1},
        {"seed": 2**63},
        {"max_staleness": -1},
        {"inline_cap": -1},
        {"inline_cap": MAX_PART_BYTES + 1},
        {"inline_cap": True},
        {"inline_cap": "8"},
        {"name_conflicts": ["a b"]},
        {"name_conflicts": ["a"] * 1001},
        {"local": {"lr": 0}},
        {"local": {"epochs": 0}},
        {"local": {"momentum": 1.0}},
        {"local": {"mu": -1}},
        {"local": {"rate": 1}},
    ],
)
def test_a_model_with_a_field_out_of_its_range_is_refused(changes: dict[str, Any]) -> None:
    model()
    with pytest.raises(ValidationError):
        model(**changes)


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="same name"):
        update(tensors=[["w", "float64", [1]], ["w", "float32", [1]]])


def test_tensors_out_of_canonical_order_are_refused() -> None:
    update(tensors=[["b", "float64", []], ["a", "float32", []]])
    with pytest.raises(ValidationError, match="canonical order"):
        update(tensors=[["a", "float32", []], ["b", "float64", []]])


def test_a_header_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        update().round = 2  # type: ignore[misc]


@pytest.mark.parametrize("every_s", [0, 0.09, 60.1, 1e9, -1, float("nan"), float("inf")])
def test_no_sign_of_life_makes_a_worker_present_for_ever(every_s: float) -> None:
    assert Presence(worker="a", instance="00112233", state="idle", every_s=60).gone_after_s == 210
    assert Presence(worker="a", instance="00112233", state="idle", every_s=0.2).gone_after_s == 35
    with pytest.raises(ValidationError):
        Presence(worker="a", instance="00112233", state="idle", every_s=every_s)


def test_only_training_has_progress() -> None:
    Presence(worker="a", instance="00112233", state="training", progress=0.5)
    with pytest.raises(ValidationError, match="progress"):
        Presence(worker="a", instance="00112233", state="idle", progress=0.5)


def test_the_last_part_of_a_blob_may_be_shorter() -> None:
    blob = BlobRef(name="b", part_bytes=16)
    assert [blob.num_parts(size) for size in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]


def test_a_later_start_is_newer_than_a_later_round_which_is_newer_than_an_earlier_one() -> None:
    """An aggregator that took over may go back a round; a zombie's head is never newer."""
    positions = [
        model(epoch=1, round=2).position,
        model(epoch=1, round=7).position,
        model(epoch=2, round=6).position,
        model(epoch=2, round=6, is_finished=True).position,
    ]
    assert positions == sorted(set(positions))


def test_local_training_has_the_documented_defaults() -> None:
    defaults = {"epochs": 2, "batch_size": 32, "lr": 0.05, "momentum": 0.9, "mu": 0.0, "max_steps": 0}
    assert LocalTraining().model_dump() == defaults
