"""Bodies under masks: covered piece by piece as they leave, once, however often and however far they are asked for."""

import itertools

import numpy as np
import pytest
import torch

from broker.states import chunks, specs_of
from privacy import Mask
from worker.masking import Covered

STATE = {
    "a": torch.arange(70_001),
    "b": torch.arange(5, dtype=torch.int32),
    "c": torch.ones(150_000, dtype=torch.int32),
}
SPECS = specs_of(STATE)


def covered(num_masks: int) -> Covered:
    return Covered({name: tensor.clone() for name, tensor in STATE.items()}, SPECS, num_masks=num_masks)


def by_hand(seeds: tuple[bytes, ...]) -> bytes:
    body = np.frombuffer(bytearray(b"".join(chunks(STATE, SPECS))), np.uint8)
    border = 8 * len(STATE["a"])
    for seed in seeds:
        Mask(seed).add_to(body[:border].view(np.uint64), 0)
        Mask(seed).add_to(body[border:].view(np.uint32), border)
    return body.tobytes()


@pytest.mark.parametrize("num_masks", [1, 3])
def test_a_body_is_its_integers_with_each_mask_once(num_masks: int) -> None:
    body = covered(num_masks)
    assert len(set(body.seeds)) == num_masks
    assert b"".join(body.pieces()) == by_hand(body.seeds)


@pytest.mark.parametrize("num_sent", [0, 1, 3, 5, 100])
def test_a_body_that_is_sent_again_from_the_beginning_is_the_same(num_sent: int) -> None:
    """Its blob may be lost on the way, after any piece: other masks on the same integers would give them away."""
    body = covered(2)
    first = b"".join(bytes(piece) for piece in itertools.islice(body.pieces(), num_sent))
    again = b"".join(body.pieces())
    assert again == by_hand(body.seeds)
    assert again.startswith(first)
    assert b"".join(body.pieces()) == again


def test_no_piece_leaves_without_its_mask() -> None:
    body, clear = covered(1), b"".join(chunks(STATE, SPECS))
    offset = 0
    for piece in body.pieces():
        plain = np.frombuffer(clear[offset : offset + len(piece)], np.uint32)
        assert np.mean(np.frombuffer(piece, np.uint32) == plain) < 0.5
        offset += len(piece)
    assert offset == len(clear)


def test_integers_that_masks_would_not_stay_on_are_refused() -> None:
    """Those of a tensor that is not in one piece: the masks would be on a copy, and the next body without them."""
    state = {"a": torch.arange(12).reshape(3, 4).T}
    with pytest.raises(RuntimeError, match="view"):
        b"".join(Covered(state, specs_of(state), num_masks=1).pieces())
