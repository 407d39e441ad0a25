"""A delta in fewer bytes, and back."""

import tracemalloc

import numpy as np
import pytest
import torch

from broker.states.compression import Encoding
from broker.states.tensors import State, chunks, digest_of, specs_of, state_from
from broker.wire.messages import Compression
from broker.wire.specs import TensorSpec, delta_specs, num_bytes_of
from console.errors import UnfitMessage

METHODS = ("none", "float16", "bfloat16", "int8", "topk:0.1")
LOSSY = METHODS[1:]


def encoding_of(state: State, method: str) -> Encoding:
    return Encoding(specs_of(state), Compression.parse(method))


def random_state(seed: int = 0) -> State:
    random = torch.Generator().manual_seed(seed)
    return {
        "body.weight": torch.randn(30, 33, generator=random),
        "body.bias": torch.randn(30, generator=random),
        "wide": torch.randn(20, 21, generator=random, dtype=torch.float64),
        "half": torch.randn(16, 16, generator=random).to(torch.bfloat16),
        "flat": torch.randn(5001, generator=random),
        "steps": torch.tensor([7, -2]),
        "nothing": torch.zeros(0, 3),
    }


def payload_of(encoded: State, encoding: Encoding) -> bytes:
    return b"".join(chunks(encoded, encoding.encoded))


def received(payload: bytes, encoding: Encoding, *, cut_at: int = 64) -> State:
    """What the aggregator folds of a body that comes in pieces."""
    body, decoder = bytearray(num_bytes_of(encoding.folded)), encoding.decoder()
    for offset in range(0, len(payload), cut_at):
        for start, piece in decoder.pieces(offset, payload[offset : offset + cut_at]):
            body[start : start + len(piece)] = piece
    return state_from(body, encoding.folded)


def round_trip(state: State, method: str, *, seed: int = 0) -> State:
    encoding = encoding_of(state, method)
    return received(payload_of(encoding.encode(state, seed=seed), encoding), encoding)


@pytest.mark.parametrize("method", METHODS)
def test_what_travels_has_the_specs_that_follow_from_the_delta_s(method: str) -> None:
    state = random_state()
    encoding = encoding_of(state, method)
    assert specs_of(encoding.encode(state, seed=1)) == encoding.encoded
    assert num_bytes_of(encoding.encoded) <= num_bytes_of(encoding.specs)


def test_without_compression_the_delta_itself_travels() -> None:
    state = random_state()
    encoding = encoding_of(state, "none")
    assert encoding.encoded == encoding.folded == encoding.specs
    assert digest_of(encoding.encode(state, seed=1)) == digest_of(state)
    assert not encoding.lossy


def test_the_names_and_sizes_of_what_travels_are_as_documented() -> None:
    state = {"w": torch.zeros(30, 10), "b": torch.zeros(10), "n": torch.tensor(1)}
    by_method = {method: encoding_of(state, method).encoded for method in METHODS}
    plain = (TensorSpec("n", "int64", ()), TensorSpec("b", "float32", (10,)))
    assert by_method["float16"] == (*plain, TensorSpec("w", "float16", (30, 10)))
    assert by_method["int8"] == (
        TensorSpec("0.plain", "int64", ()),
        TensorSpec("1.plain", "float32", (10,)),
        TensorSpec("2.scales", "float32", (2,)),
        TensorSpec("2.codes", "int8", (30, 10)),
    )
    assert by_method["topk:0.1"] == (
        TensorSpec("0.plain", "int64", ()),
        TensorSpec("1.plain", "float32", (10,)),
        TensorSpec("2.gaps", "int32", (30,)),
        TensorSpec("2.values", "float32", (30,)),
    )


def test_the_places_of_many_tensors_have_digits_enough_to_be_in_order() -> None:
    state = {f"w{number:02d}": torch.zeros(9, 9) for number in range(12)}
    names = [spec.name for spec in encoding_of(state, "topk:0.1").encoded]
    assert names[:4] == ["00.gaps", "00.values", "01.gaps", "01.values"]
    assert names[-1] == "11.values"


@pytest.mark.parametrize("method", METHODS)
def test_integers_and_small_vectors_come_out_as_they_were(method: str) -> None:
    state = random_state()
    decoded = round_trip(state, method)
    for name in ("body.bias", "steps", "nothing"):
        assert torch.equal(decoded[name], state[name])


@pytest.mark.parametrize("method", LOSSY)
@pytest.mark.parametrize(
    "state",
    [{"a": torch.zeros(1, 1)}, {"a": torch.zeros(4096)}, {"a": torch.zeros(9, 9, dtype=torch.int64)}],
    ids=["one element", "short vector", "integers"],
)
def test_what_would_gain_nothing_travels_as_it_is(state: State, method: str) -> None:
    is_smaller = method in ("float16", "bfloat16") and state["a"].numel() == 1
    assert bool(encoding_of(state, method).lossy) == is_smaller


def test_half_precision_is_not_larger_in_bfloat16() -> None:
    assert not encoding_of({"a": torch.zeros(9, 9, dtype=torch.float16)}, "bfloat16").lossy


@pytest.mark.parametrize(("method", "epsilon"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_precision_is_off_by_half_a_unit_in_the_last_place(method: str, epsilon: float) -> None:
    state = random_state()
    decoded = round_trip(state, method)
    for name in ("body.weight", "wide", "flat"):
        error = (decoded[name].double() - state[name].double()).abs()
        assert bool((error <= epsilon * state[name].abs() + 2**-25).all())


def test_int8_is_off_by_less_than_a_scale() -> None:
    """A 127th of the largest magnitude among 256 elements."""
    state = random_state()
    decoded = round_trip(state, "int8")
    for name in ("body.weight", "wide", "flat", "half"):
        error = (decoded[name].double() - state[name].double()).flatten().abs()
        for block, errors in zip(state[name].double().flatten().split(256), error.split(256), strict=True):
            assert float(errors.max()) <= float(block.abs().max()) / 127 * (1 + 1e-6)


def test_topk_gives_the_largest_elements_exactly_and_no_others() -> None:
    state = random_state()
    decoded = round_trip(state, "topk:0.1")
    for name in ("body.weight", "flat", "half"):
        values, there = state[name].float().flatten(), decoded[name].flatten()
        num_kept = -(-len(values) // 10)
        assert int((there != 0).sum()) == num_kept
        kept = there != 0
        assert torch.equal(there[kept], values[kept])
        assert float(values[kept].abs().min()) >= float(values[~kept].abs().max())


def test_of_equal_elements_topk_takes_the_first() -> None:
    decoded = round_trip({"a": torch.ones(10, 10)}, "topk:0.05")["a"].flatten()
    assert decoded.tolist() == [1.0] * 5 + [0.0] * 95


def test_topk_of_an_element_far_behind_gives_it_alone() -> None:
    state = {"a": torch.zeros(400, 400)}
    state["a"][-1, -1] = -3.0
    decoded = round_trip(state, "topk:0.000001")["a"]
    assert torch.equal(decoded, state["a"])


def test_int8_is_right_on_average() -> None:
    """Over 4,000 seeds, the mean is within 5 standard errors; one rounding is off by up to a scale."""
    state = {"a": torch.linspace(-1.0, 1.0, 512, dtype=torch.float64).reshape(2, 256)}
    encoding = encoding_of(state, "int8")
    total = torch.zeros(2, 256, dtype=torch.float64)
    for seed in range(4000):
        total += encoding.decoded(encoding.encode(state, seed=seed), encoding.lossy[0]).double()
    scale = 1.0 / 127
    assert float((total / 4000 - state["a"]).abs().max()) < 5 * scale / 2 / 4000**0.5


@pytest.mark.parametrize("method", LOSSY)
def test_the_same_delta_and_seed_give_the_same_bytes(method: str) -> None:
    encoding = encoding_of(random_state(), method)
    assert digest_of(encoding.encode(random_state(), seed=5)) == digest_of(encoding.encode(random_state(), seed=5))


def test_another_seed_rounds_otherwise() -> None:
    state = random_state()
    encoding = encoding_of(state, "int8")
    assert digest_of(encoding.encode(state, seed=5)) != digest_of(encoding.encode(state, seed=6))


def test_the_bytes_of_a_fixed_delta_are_a_known_answer() -> None:
    """Python, numpy, torch and the machine may change; this may not, or a worker could not repeat an update."""
    state = {"w": (torch.arange(600, dtype=torch.float64).reshape(2, 300) - 250) / 1000, "b": torch.tensor([0.5])}
    digests = {method: digest_of(encoding_of(state, method).encode(state, seed=7))[:16] for method in LOSSY}
    assert digests == KNOWN


KNOWN = {
    "float16": "2e7123a0c2b53786",
    "bfloat16": "cd06b1306545c9ef",
    "int8": "3c18bcb778c364b6",
    "topk:0.1": "a3a38c3426103744",
}


@pytest.mark.parametrize("method", LOSSY)
def test_extreme_numbers_come_out_finite(method: str) -> None:
    largest = torch.finfo(torch.float32).max
    state = {
        "huge": torch.tensor([[largest, -largest, 1.0, 0.0]] * 100),
        "tiny": torch.full((20, 20), 1e-45),
        "wide": torch.full((20, 20), 1e300, dtype=torch.float64),
        "zero": torch.zeros(20, 20),
    }
    decoded = round_trip(state, method)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in decoded.values())
    assert bool((decoded["zero"] == 0).all())
    assert float(decoded["wide"].max()) > 6e4


@pytest.mark.parametrize("cut_at", [8, 16, 1000, 2**20])
@pytest.mark.parametrize("method", METHODS)
def test_cuts_change_nothing(method: str, cut_at: int) -> None:
    state = random_state()
    encoding = encoding_of(state, method)
    payload = payload_of(encoding.encode(state, seed=2), encoding)
    cut_there = received(payload, encoding, cut_at=cut_at)
    assert digest_of(cut_there) == digest_of(received(payload, encoding, cut_at=len(payload)))
    for spec in encoding.lossy:
        assert torch.equal(encoding.decoded(encoding.encode(state, seed=2), spec), cut_there[spec.name])


def test_integers_of_a_model_travel_wide_and_booleans_not_at_all() -> None:
    model = {"n": torch.tensor([1], dtype=torch.uint8), "mask": torch.tensor([True]), "w": torch.zeros(8, 8)}
    encoding = Encoding(delta_specs(specs_of(model)), Compression.parse("int8"))
    assert [spec.name for spec in encoding.specs] == ["n", "w"]
    assert encoding.encoded[0] == TensorSpec("0.plain", "int64", (1,))


# -- hostile bodies ---------------------------------------------------------------------------------------------

ONE: State = {"a": torch.linspace(-1, 1, 300).reshape(3, 100)}
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("method", "name", "values", "reason"),
    [
        ("int8", "0.scales", [NAN, 1.0], "a scale of 'a' out of range"),
        ("int8", "0.scales", [1.0, INFINITY], "a scale of 'a' out of range"),
        ("int8", "0.scales", [-1.0, 1.0], "a scale of 'a' out of range"),
        ("int8", "0.scales", [3e38, 1.0], "a scale of 'a' out of range"),
        ("int8", "0.codes", [0] * 299 + [-128], "a code of 'a' below -127"),
        ("topk:0.01", "0.gaps", [1, 0, 1], "not in rising order"),
        ("topk:0.01", "0.gaps", [5, -2, 1], "not in rising order"),
        ("topk:0.01", "0.gaps", [0, 2, 1], "not in rising order"),
        ("topk:0.01", "0.gaps", [1, 1, 299], "an element that 'a' does not have"),
        ("topk:0.01", "0.gaps", [2**31 - 1] * 3, "an element that 'a' does not have"),
        ("topk:0.01", "0.values", [0.0, NAN, 0.0], "NaN or infinity in 'a'"),
        ("topk:0.01", "0.values", [0.0, 0.0, -INFINITY], "NaN or infinity in 'a'"),
    ],
)
def test_numbers_that_no_encoder_writes_are_refused(method: str, name: str, values: list[float], reason: str) -> None:
    encoding = encoding_of(ONE, method)
    encoded = encoding.encode(ONE, seed=0)
    encoded[name] = torch.tensor(values).to(encoded[name].dtype).reshape(encoded[name].shape)
    with pytest.raises(UnfitMessage, match=reason):
        received(payload_of(encoded, encoding), encoding)


@pytest.mark.parametrize("method", ["int8", "topk:0.01"])
def test_a_decoder_holds_far_less_than_the_delta(method: str) -> None:
    """Of 40 MB: 160 kB of scales or 800 kB of one tensor's elements, and some blocks at work."""
    state = {f"{letter}": torch.randn(2000, 2500) for letter in "ab"}
    encoding = encoding_of(state, method)
    payload = payload_of(encoding.encode(state, seed=0), encoding)
    decoder = encoding.decoder()
    tracemalloc.start()
    try:
        for offset in range(0, len(payload), 2**20):
            for _, piece in decoder.pieces(offset, memoryview(payload)[offset : offset + 2**20]):
                assert len(piece) <= 2**18
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


# -- how it is said ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["none", "float16", "bfloat16", "int8", "topk:0.01", "topk:1"])
def test_a_compression_reads_what_it_says(text: str) -> None:
    assert Compression.parse(text).text == text
    assert Compression.parse(Compression.parse(text).text) == Compression.parse(text)
    assert str(Compression.parse(text, zstd=3)) == f"{text} with zstd 3"


@pytest.mark.parametrize("text", ["", "int4", "topk", "topk:", "topk:0", "topk:1.5", "topk:nan", "topk:x", "int8:2"])
def test_a_compression_that_is_none_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected none|a share is"):
        Compression.parse(text)


def test_scales_are_of_256_elements() -> None:
    state = {"a": torch.cat([torch.full((256,), 1.0), torch.full((44,), 1000.0)]).reshape(3, 100)}
    encoded = encoding_of(state, "int8").encode(state, seed=0)
    assert encoded["0.scales"].tolist() == [np.float32(1 / 127), np.float32(1000 / 127)]
