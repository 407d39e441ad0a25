"""The sum of masked updates: the same in any pieces and order, and to the bit what it was once one is out again."""

import random
from pathlib import Path

import numpy as np
import pytest

from aggregator.masking import Implausible, RingSum
from aggregator.rounds.accumulator import Key
from aggregator.state import Accumulated, StateDirectory
from broker.states import MaskedEncoding
from broker.wire import Masking, Specs, TensorSpec, num_bytes_of
from console import DamagedFile

MODEL: Specs = (TensorSpec("a", "float32", (5,)), TensorSpec("b", "float32", (3, 2)), TensorSpec("c", "float32", ()))
MASKINGS = {bits: Masking(bits=bits, step=2.0**-20, most=16.0, min_sites=3, keepers=("keeper",)) for bits in (64, 32)}
DAMAGED = Accumulated(file="sum.safetensors", sha256="00" * 32, bound=0.0, num_folded=1, num_samples=1)


def specs_of(masking: Masking) -> Specs:
    return MaskedEncoding(MODEL, masking).encoded


def body(masking: Masking, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(num_bytes_of(specs_of(masking)))


def add(total: RingSum, payload: bytes, chance: random.Random, *, takes_out: bool = False) -> None:
    """In pieces of whole numbers of 8 bytes."""
    key, offset = Key(1, "worker"), 0
    total.begin_update(key)
    while offset < len(payload):
        size = 8 * chance.randint(1, 5)
        piece = payload[offset : offset + size]
        (total.remove if takes_out else total.add)(offset, piece, 1.0)
        offset += size
    total.end_removal(key) if takes_out else total.end_update()


def limbs(total: RingSum) -> list[bytes]:
    return [array.tobytes() for array in total._arrays.values()]


@pytest.mark.parametrize("bits", [64, 32])
def test_the_order_and_the_pieces_change_no_bit_and_what_is_taken_out_leaves_none(bits: int) -> None:
    masking = MASKINGS[bits]
    bodies = [body(masking, seed) for seed in range(4)]
    chance, found = random.Random(bits), []
    for _ in range(5):
        total = RingSum(specs_of(masking), masking=masking)
        order = chance.sample(bodies, len(bodies))
        for payload in [*order, body(masking, 9)]:
            add(total, payload, chance)
        add(total, body(masking, 9), chance, takes_out=True)
        found.append(limbs(total))
    assert found == [found[0]] * 5
    for payload in bodies:
        add(total, payload, chance, takes_out=True)
    assert not any(b"".join(limbs(total)))


@pytest.mark.parametrize("bits", [64, 32])
def test_it_comes_back_as_it_was_saved_and_a_damaged_file_is_noticed(bits: int, tmp_path: Path) -> None:
    masking, directory = MASKINGS[bits], StateDirectory(tmp_path)
    total = RingSum(specs_of(masking), masking=masking)
    add(total, body(masking, 1), random.Random(0))
    sha256 = total.save(directory, "sum.safetensors")
    again = RingSum(specs_of(masking), masking=masking)
    again.load(directory, Accumulated(file="sum.safetensors", sha256=sha256, bound=0.0, num_folded=1, num_samples=1))
    assert limbs(again) == limbs(total)
    with pytest.raises(DamagedFile):
        again.load(directory, DAMAGED)


@pytest.mark.parametrize("bits", [64, 32])
def test_means_are_signed_and_in_steps_and_can_be_had_from_any_element_on(bits: int) -> None:
    masking = MASKINGS[bits]
    specs = specs_of(masking)
    total = RingSum(specs, masking=masking)
    values = np.arange(-6, 6) * 2**20 // 4
    kind = np.int64 if bits == 64 else np.int32
    extras, payload = np.array([3 * 2**20], np.int64).tobytes(), values.astype(kind).tobytes()
    add(total, extras + payload, random.Random(1))
    assert total.extras().tolist() == [3.0]
    spans = list(total.spans(MODEL))
    assert [spec.name for spec in spans[0]] == ["a", "b", "c"]
    (mean,) = [mean.copy() for _, mean in total.means(spans[0], 2.0)]
    assert mean.tolist() == [value / 2**20 / 2 for value in values]
    (part,) = [mean.copy() for _, mean in total.means(spans[0], 2.0, start=4, num=3)]
    assert part.tolist() == mean[4:7].tolist()
    total.check(1)


@pytest.mark.parametrize("bits", [64, 32])
def test_what_no_updates_can_add_up_to_is_noticed(bits: int) -> None:
    masking = MASKINGS[bits].model_copy(update={"most": 1.0})
    total = RingSum(specs_of(masking), masking=masking)
    add(total, body(masking, 1), random.Random(0))
    with pytest.raises(Implausible, match="what they can add up to"):
        total.check(3)
