"""Compression over any specs, cuts and broken bodies: what is decoded is the same everywhere, or refused."""

import numpy as np
import torch
from bodies import ANY_PART_BYTES
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import folded_or_refused, update_head

from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.intake import Expected
from broker.memory import MemoryBroker, MemoryTransport
from broker.states.compression import Encoding
from broker.states.tensors import DTYPES, State, chunks, digest_of, state_from
from broker.wire import zstd
from broker.wire.buffers import cut
from broker.wire.codec import encode
from broker.wire.messages import BlobRef, Compression
from broker.wire.specs import Specs, TensorSpec, canonical, num_bytes_of
from broker.wire.topology import Topology
from console.errors import UnfitMessage
from worker.rounds.error_feedback import compress

FLOATS = ("float64", "float32", "float16", "bfloat16")
SHAPES = ((), (1,), (3,), (2, 0, 3), (5, 7), (2, 2), (17, 33), (5000,), (300, 3))
METHODS = ("none", "float16", "bfloat16", "int8", "topk:0.01", "topk:0.3", "topk:1")
BLOB = "updates.blob.update.site-a.demo.0a1b2c3d.3"


@st.composite
def specs_of_deltas(draw: st.DrawFn) -> Specs:
    kinds = st.tuples(st.sampled_from([*FLOATS, "int64"]), st.sampled_from(SHAPES))
    drawn = draw(st.lists(kinds, min_size=1, max_size=5))
    return canonical(TensorSpec(f"t{n}", dtype, shape) for n, (dtype, shape) in enumerate(drawn))  # type: ignore[arg-type]


def delta_of(specs: Specs, seed: int, scale: float = 1.0) -> State:
    random = np.random.default_rng(seed)
    state: State = {}
    for spec in specs:
        values = random.standard_normal(spec.num_elements) * scale * random.integers(0, 2, spec.num_elements)
        state[spec.name] = torch.from_numpy(values).to(DTYPES[spec.dtype]).reshape(spec.shape)
    return state


def payload_of(encoded: State, encoding: Encoding) -> bytes:
    return b"".join(chunks(encoded, encoding.encoded))


def folded(payload: bytes, encoding: Encoding, sizes: list[int]) -> State:
    """What comes of a body that arrives in pieces of these sizes, over and over, each a multiple of 8."""
    body, decoder, offset = bytearray(num_bytes_of(encoding.folded)), encoding.decoder(), 0
    while offset < len(payload):
        size = sizes[0]
        sizes = [*sizes[1:], size]
        for start, piece in decoder.pieces(offset, memoryview(payload)[offset : offset + size]):
            body[start : start + len(piece)] = piece
        offset += size
    return state_from(body, encoding.folded)


@settings(max_examples=300, deadline=None)
@given(
    specs_of_deltas(),
    st.sampled_from(METHODS),
    st.integers(0, 2**32),
    st.lists(st.integers(1, 300).map(lambda number: 8 * number), min_size=1, max_size=4),
)
def test_any_cuts_decode_to_what_the_worker_decodes(specs: Specs, method: str, seed: int, sizes: list[int]) -> None:
    delta, encoding = delta_of(specs, seed), Encoding(specs, Compression.parse(method))
    encoded = encoding.encode(delta, seed=seed)
    decoded = folded(payload_of(encoded, encoding), encoding, sizes)
    assert num_bytes_of(encoding.encoded) <= num_bytes_of(specs)
    for spec in specs:
        is_lossy = spec in encoding.lossy
        expected = encoding.decoded(encoded, spec) if is_lossy else delta[spec.name]
        assert torch.equal(decoded[spec.name], expected)


@settings(max_examples=150, deadline=None)
@given(specs_of_deltas(), st.sampled_from(METHODS), st.integers(0, 2**32), st.sampled_from([1e-6, 1.0, 1e3]))
def test_what_was_decoded_and_the_residual_are_all_that_was_trained(
    specs: Specs, method: str, seed: int, scale: float
) -> None:
    """Over 6 rounds, up to the rounding of a float32 addition a round."""
    encoding = Encoding(specs, Compression.parse(method))
    residual: State = {}
    trained = {spec.name: torch.zeros(spec.shape, dtype=torch.float64) for spec in specs}
    decoded = {spec.name: torch.zeros(spec.shape, dtype=torch.float64) for spec in specs}
    for number in range(6):
        delta = delta_of(specs, seed + number, scale)
        compressed = compress(delta, residual, encoding, seed=number)
        residual = compressed.residual
        assert set(residual) == {spec.name for spec in encoding.lossy}
        for spec in encoding.lossy:
            trained[spec.name] += delta[spec.name].double()
            decoded[spec.name] += encoding.decoded(compressed.encoded, spec).double()
    for spec in encoding.lossy:
        error = (decoded[spec.name] + residual[spec.name].double() - trained[spec.name]).abs()
        assert float(error.max()) <= 6 * 2**-20 * scale * 10


BLOWS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=500, deadline=None)
@given(
    specs_of_deltas(),
    st.sampled_from(METHODS),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([None, 64, 1024]),
    BLOWS,
    st.booleans(),
)
def test_a_broken_body_is_refused_or_leaves_the_sum_finite(
    specs: Specs, method: str, level: int, part_bytes: int | None, blows: list[tuple[int, int]], is_signed: bool
) -> None:
    """Bytes changed on the wire, or (signed) by the sender, who tells the digest of what he sends."""
    compression = Compression.parse(method, zstd=level)
    encoding = Encoding(specs, compression)
    encoded = encoding.encode(delta_of(specs, 1), seed=1)
    payload = bytearray(payload_of(encoded, encoding))
    if is_signed:
        strike(payload, blows)
        encoded = state_from(bytearray(payload), encoding.encoded)
    transport = MemoryTransport(MemoryBroker())
    head = update_head(encoded, compression=compression, tensors=encoding.encoded, sha256=digest_of(encoded))
    parts = [zstd.compressed(part, level) for part in cut([payload], part_bytes or 2**30)]
    parts = parts or [zstd.compressed(b"", level)]
    if not is_signed:
        broken = bytearray(parts[0])
        strike(broken, blows)
        parts[0] = bytes(broken)
    if part_bytes is None:
        body = encode(head, parts[0])
    else:
        transport.write_blob(BLOB, parts)
        body = encode(head.model_copy(update={"blob": BlobRef(name=BLOB, part_bytes=part_bytes)}))
    expected = Expected("demo.0a1b2c3d", encoding, Topology("updates"), ANY_PART_BYTES)
    exact_sum = folded_or_refused(body, expected, transport)
    if exact_sum is not None:
        assert sum_of(payload, encoding) == digests_of(exact_sum)


def sum_of(payload: bytes, encoding: Encoding) -> dict[str, bytes]:
    exact_sum = ExactSum(encoding.folded)
    for offset, piece in encoding.decoder().pieces(0, payload):
        exact_sum.add(offset, piece, 1.0)
    return digests_of(exact_sum)


def digests_of(exact_sum: ExactSum) -> dict[str, bytes]:
    return {name: limb.tobytes() for name, limb in exact_sum.limbs().items()}


def strike(body: bytearray, blows: list[tuple[int, int]]) -> None:
    for at, value in blows:
        if body:
            body[at % len(body)] = value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 2**20))
def test_any_bytes_are_a_frame_of_the_announced_size_or_unfit(frame: bytes, num_bytes: int) -> None:
    decompressed: bytes | None = None
    reason = "zstd"
    try:
        decompressed = zstd.decompressed(frame, num_bytes)
    except UnfitMessage as error:
        reason = str(error)
    assert decompressed is None or len(decompressed) == num_bytes
    assert "zstd" in reason
