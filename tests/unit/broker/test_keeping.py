"""What keepers are asked, as bytes: sets have one digest in any order, and seeds come out as they went in."""

import pytest
from pydantic import ValidationError

from broker.wire import (
    KeeperRequest,
    Masking,
    SealedSeed,
    TensorSpec,
    decode_from,
    digest_of_set,
    encode,
    mask_sizes,
    mask_specs,
    packed_seeds,
    unpacked_seeds,
)
from broker.wire.signatures import Believing
from console import MalformedMessage

SEED = SealedSeed(
    run_id="demo.0a1b2c3d",
    round=3,
    worker="hospital-a",
    instance="0011223344556677",
    model_sha256="ab" * 32,
    masked_sha256="cd" * 32,
    keeper="ethics",
    num_words=10,
    num_halves=0,
    min_sites=3,
    sealed="0f" * 80,
)
MASKING = {"step": 2.0**-32, "most": 1024.0, "min_sites": 3, "keepers": ("ethics",)}


def test_a_set_has_one_digest_in_any_order_and_another_with_another_update_round_or_run() -> None:
    masked = [("b", "11" * 32), ("a", "22" * 32), ("c", "33" * 32)]
    digest = digest_of_set("run", 1, masked)
    assert digest == digest_of_set("run", 1, reversed(masked))
    others = [masked[:2], [*masked, ("d", "11" * 32)], [("b", "22" * 32), ("a", "11" * 32), ("c", "33" * 32)]]
    digests = {digest, digest_of_set("run", 2, masked), digest_of_set("ru", 1, masked)}
    assert len(digests | {digest_of_set("run", 1, other) for other in others}) == 6


def test_seeds_come_out_as_they_went_in() -> None:
    messages = [encode(SEED.model_copy(update={"worker": name})) for name in ("a", "hospital-b", "c-7")]
    again = list(unpacked_seeds(packed_seeds(messages)))
    assert again == messages
    assert [decode_from(each, SealedSeed, trust=Believing()).header.worker for each in again] == [
        "a",
        "hospital-b",
        "c-7",
    ]
    assert list(unpacked_seeds(b"")) == []


@pytest.mark.parametrize("damaged", [b"\x05\x00\x00\x00abc", b"\xff\xff\xff\xff", b"\x01\x00", b"\x00\x20\x00\x00"])
def test_seeds_that_are_cut_off_or_too_long_are_malformed(damaged: bytes) -> None:
    with pytest.raises(MalformedMessage, match="cut off"):
        list(unpacked_seeds(damaged))


def test_a_masked_body_has_its_words_before_its_halves() -> None:
    specs = mask_specs(3, 5)
    assert [(spec.name, spec.dtype, spec.shape) for spec in specs] == [
        ("words", "int64", (3,)),
        ("halves", "int32", (5,)),
    ]
    assert mask_sizes(specs) == (3, 5)
    assert mask_specs(2, 0) == (TensorSpec("words", "int64", (2,)),)


def test_what_says_how_much_noise_is_needed_says_all_of_it() -> None:
    with pytest.raises(ValidationError, match="go together"):
        SealedSeed.model_validate(SEED.model_dump() | {"clip": 1.0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_sites": 1},
        {"keepers": ()},
        {"keepers": ("a", "a")},
        {"step": 0.0},
        {"bits": 16},
        {"metrics": ("eval.loss",) * 2},
    ],
    ids=str,
)
def test_a_head_does_not_ask_for_masks_that_hide_nothing(wrong: dict[str, object]) -> None:
    assert Masking.model_validate(MASKING)
    with pytest.raises(ValidationError):
        Masking.model_validate(MASKING | wrong)


def test_a_seed_is_sealed_for_one_mask_of_one_body_at_one_keeper() -> None:
    others = {"run_id": "x", "round": 4, "worker": "x", "instance": "ff" * 8, "model_sha256": "00" * 32}
    others |= {"masked_sha256": "00" * 32, "keeper": "other"}
    contexts = {SEED.context} | {SEED.model_copy(update={name: value}).context for name, value in others.items()}
    assert len(contexts) == 1 + len(others)
    assert KeeperRequest.model_fields["kind"].default == "request"
