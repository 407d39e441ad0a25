"""Valid messages, random states, and ways to break messages: what the property tests of the wire share."""

from typing import Any

import hypothesis.strategies as st
import msgpack
import torch
from bodies import body_of
from exact_sums import mean_of

from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.intake import Expected, read_update
from aggregator.rounds.open_round import add_to
from broker.states.tensors import DTYPES, State, chunks, digest_of, specs_of
from broker.transport import Delivery, Source, Transport
from broker.wire.codec import encode
from broker.wire.messages import (
    BlobRef,
    Compression,
    Header,
    LocalTraining,
    ModelHead,
    PartialHead,
    Presence,
    Reply,
    Status,
    UpdateHead,
)
from broker.wire.specs import Digest
from console.errors import BlobLost, MessageError

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any dtype that travels, any small shape, any bits a finite value may have."""
    dtype, shape = DTYPES[draw(st.sampled_from(sorted(DTYPES)))], draw(SHAPES)
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    if dtype.is_floating_point:
        return (torch.randn(shape, generator=random, dtype=torch.float64) * 100).to(dtype)
    if dtype is torch.bool:
        return torch.rand(shape, generator=random) < 0.5
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max, shape, generator=random, dtype=dtype)


STATES = st.dictionaries(NAMES, tensors(), max_size=5)


def payload_of(state: State) -> bytes:
    return b"".join(chunks(state, specs_of(state)))


def model_head(state: State, **changes: Any) -> ModelHead:
    fields = {
        "tensors": specs_of(state),
        "sha256": digest_of(state),
        "run": "demo",
        "run_id": "demo.0a1b2c3d",
        "epoch": 1,
        "round": 3,
        "num_rounds": 20,
        "seed": 7,
        "local": LocalTraining(epochs=1, mu=0.5),
        "name_conflicts": ("site-b",),
    }
    return ModelHead.model_validate(fields | changes)


def update_head(state: State, **changes: Any) -> UpdateHead:
    fields = {
        "tensors": specs_of(state),
        "sha256": digest_of(state),
        "run_id": "demo.0a1b2c3d",
        "worker": "site-a",
        "instance": "0123456789abcdef",
        "round": 3,
        "num_samples": 120,
        "train_s": 1.5,
        "sent_at": 1.7e9,
        "train_metrics": {"loss": 0.25},
        "eval_metrics": {"accuracy": 0.5, "num_samples": 12.0},
    }
    return UpdateHead.model_validate(fields | changes)


def partial_head(state: State, **changes: Any) -> PartialHead:
    updates = [
        {
            "worker": worker,
            "instance": "0123456789abcdef",
            "num_samples": 120,
            "num_bytes": 40,
            "train_s": 1.5,
            "sent_at": 1.7e9,
            "train_metrics": {"loss": 0.25},
            "eval_metrics": {"accuracy": 0.5},
        }
        for worker in ("site-a", "site-b")
    ]
    fields = {
        "tensors": specs_of(state),
        "sha256": sum_of(state)[1],
        "run_id": "demo.0a1b2c3d",
        "round": 3,
        "shard": 0,
        "num_shards": 1,
        "sequence": 0,
        "bound": 3.0 * 240,
        "updates": updates,
    }
    return PartialHead.model_validate(fields | changes)


def sum_of(state: State) -> tuple[bytes, str]:
    """The payload of a partial sum of two updates that are this state, with 120 samples each; and its digest."""
    exact_sum, digest = ExactSum(specs_of(state)), Digest(specs_of(state))
    for _ in range(2):
        exact_sum.add(0, payload_of(state), 120.0)
        exact_sum.end_update()
    payload = b"".join(exact_sum.limb_pieces())
    digest.add(payload)
    return payload, digest.hex()


SMALL: State = {"w": torch.tensor([[0.5, -1.0, 2.0]]), "b": torch.tensor(3.0), "n": torch.tensor([1, 2])}
BLOB = BlobRef(name="updates.blob.update.site-a.demo.0a1b2c3d.3", part_bytes=16)
SUM_BLOB = BlobRef(name="updates.blob.partial.0.demo.0a1b2c3d.3.0", part_bytes=16)
PARTIALS = [encode(partial_head(SMALL), sum_of(SMALL)[0]), encode(partial_head(SMALL, blob=SUM_BLOB))]
TOPK = Compression(method="topk", share=0.5, zstd=3)
UPDATES = [
    encode(update_head(SMALL), payload_of(SMALL)),
    encode(update_head(SMALL, blob=BLOB)),
    encode(update_head(SMALL, compression=TOPK), payload_of(SMALL)),
]
MODELS = [
    encode(model_head(SMALL), payload_of(SMALL)),
    encode(model_head(SMALL, blob=BLOB, is_finished=True)),
    encode(model_head(SMALL, compression=TOPK, shared=("*", "!x")), payload_of(SMALL)),
]

PRESENCE = Presence(worker="site-a", instance="0123456789abcdef", state="training", round=3, progress=0.5)
ANSWER = Reply(
    run_id="demo.0a1b2c3d",
    worker="site-a",
    instance="0123456789abcdef",
    round=3,
    model_sha256="0" * 64,
    outcome="diverged",
    reason="training gave NaN or infinity in 'w'",
    sent_at=1.7e9,
    eval_metrics={"accuracy": 0.5},
    eval_not_finite={"loss": "nan"},
)
ANSWERS = [encode(ANSWER)]
STATUS = Status(
    run="demo",
    run_id="demo.0a1b2c3d",
    state="running",
    sent_at=1.7e9,
    round=3,
    num_rounds=20,
    num_folded=1,
    target=2,
    num_present=2,
)
HEADERS: dict[type[Header], list[tuple[Header, bytes]]] = {
    UpdateHead: [(update_head(SMALL), payload_of(SMALL)), (update_head(SMALL, blob=BLOB), b"")],
    ModelHead: [(model_head(SMALL), payload_of(SMALL)), (model_head(SMALL, blob=BLOB, is_finished=True), b"")],
    PartialHead: [(partial_head(SMALL), sum_of(SMALL)[0])],
    Reply: [(ANSWER, b"")],
    Presence: [(PRESENCE, b"")],
    Status: [(STATUS, b"")],
}
"""Valid headers of each kind with their payloads, for tests that sign them."""


def folded_or_refused(body: bytes, expected: Expected, transport: Transport) -> ExactSum | None:
    """An update of site-a through its whole way: header, fit, body, digest, sum. None if it is refused.

    Either way the sum holds no more than it may; and nothing of what is refused, for which there is a reason.
    """
    exact_sum = ExactSum(expected.encoding.folded)
    try:
        update = read_update(Delivery(Source.UPDATES, body, "site-a"), expected, round_number=5)
        with body_of(update, transport) as whole:
            add_to(exact_sum, update, whole, [1.0])
    except (MessageError, BlobLost) as error:
        reason = str(error)
    else:
        assert all(abs(mean_of(exact_sum, spec, 1)).max(initial=0) < 2**30 for spec in exact_sum.specs)
        return exact_sum
    assert reason
    assert not any(limb.any() for limb in exact_sum.limbs().values())
    return None


def message(packed: bytes, payload: bytes = b"", *, trailer: bytes = b"") -> bytes:
    """A message around any header bytes and any trailer."""
    lengths = len(packed).to_bytes(4, "little") + len(trailer).to_bytes(4, "little")
    padding = bytes(-(12 + len(packed) + len(trailer)) % 64)
    return b"FMQ\x02" + lengths + packed + trailer + padding + payload


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=8)
    | st.sampled_from(["float32", "update", "model", "float64", [], {}, 2**40, -1, 1e308, "w\n"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def _flip(body: bytes, at: int, number: int) -> bytes:
    return body[:at] + bytes([body[at] ^ (1 << number % 8)]) + body[at + 1 :] if body else body


def _cut(body: bytes, at: int, number: int) -> bytes:
    return body[:at]


def _drop(body: bytes, at: int, number: int) -> bytes:
    return body[:at] + body[at + 1 + number % 9 :]


def _insert(body: bytes, at: int, number: int) -> bytes:
    return body[:at] + number.to_bytes(4, "big")[: 1 + number % 4] + body[at:]


def _announce(body: bytes, at: int, number: int) -> bytes:
    """Another length of the header, or of the trailer."""
    start = 4 + at % 2 * 4
    return body[:start] + number.to_bytes(4, "little") + body[start + 4 :]


def _begin_collection(body: bytes, at: int, number: int) -> bytes:
    """msgpack's 32-bit array, map, string, binary or extension, with any number of elements announced."""
    return body[:at] + bytes([(0xDD, 0xDF, 0xDB, 0xC6, 0xC9)[number % 5]]) + number.to_bytes(4, "big") + body[at:]


def _nest(body: bytes, at: int, number: int) -> bytes:
    return body[:at] + b"\x91\x81\xa1k"[number % 2 :] * (number % 700) + body[at:]


BREAKS = st.lists(
    st.tuples(
        st.sampled_from([_flip, _flip, _cut, _drop, _insert, _announce, _begin_collection, _nest]),
        st.integers(0, 2**16),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=3,
)


def header_bytes(body: bytes) -> bytes:
    return body[12 : 12 + int.from_bytes(body[4:8], "little")]


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Valid bytes of any kind after one to three blows."""
    target = draw(st.sampled_from(originals))
    for blow, at, number in draw(BREAKS):
        target = blow(target, at % max(1, len(target)), number)
    return target


@st.composite
def broken(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A valid message after one to three blows: anywhere, or within its header, whose length is then right again."""
    original = draw(st.sampled_from(originals))
    is_inside = draw(st.booleans())
    target = header_bytes(original) if is_inside else original
    for blow, at, number in draw(BREAKS):
        target = blow(target, at % max(1, len(target)), number)
    return message(target, payload_of(SMALL)) if is_inside else target


@st.composite
def altered(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A valid message with some fields of its header replaced, dropped or added."""
    fields = msgpack.unpackb(header_bytes(draw(st.sampled_from(originals))))
    for name in draw(st.lists(st.sampled_from([*fields, "extra", "blob", "local"]), min_size=1, max_size=2)):
        if draw(st.integers(0, 3)) == 0:
            fields.pop(name, None)
        else:
            fields[name] = draw(VALUES)
    return message(msgpack.packb(fields), payload_of(SMALL))


def garbage() -> st.SearchStrategy[bytes]:
    """Random bytes, with and without our prefix, and random maps as headers."""
    maps = st.dictionaries(st.text(max_size=12), VALUES, max_size=6).map(msgpack.packb).map(message)
    return st.binary(max_size=200) | st.binary(max_size=200).map(message) | maps
