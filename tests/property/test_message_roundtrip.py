"""decode(encode(x)) == x, for every header and every tensor that can travel."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import SMALL, STATES, model_head, partial_head, payload_of, update_head

from broker.states.tensors import State, chunks, digest_of, specs_of, state_from
from broker.wire.buffers import cut
from broker.wire.codec import decode, encode
from broker.wire.messages import BlobRef, Folded, LocalTraining, ModelHead, PartialHead, Presence, UpdateHead
from broker.wire.specs import Digest, num_bytes_of

METRICS = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_.@/-]{1,64}", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False),
    max_size=5,
)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


def assert_same(given: State, expected: State) -> None:
    assert given.keys() == expected.keys()
    for name, tensor in expected.items():
        assert given[name].dtype == tensor.dtype
        assert given[name].shape == tensor.shape
        assert torch.equal(given[name], tensor)


@settings(max_examples=300)
@given(STATES)
def test_a_model_comes_back_with_the_same_tensors(state: State) -> None:
    body = encode(model_head(state), payload_of(state))
    head, payload = decode(body, ModelHead)

    assert head == model_head(state)
    assert len(payload) == head.num_bytes
    received = state_from(bytearray(payload), head.tensors)
    assert_same(received, state)
    assert digest_of(received) == head.sha256


@settings(max_examples=200)
@given(
    STATES,
    NAMES,
    st.integers(1, 2**29 - 1),
    st.floats(0, 1e11),
    METRICS,
    METRICS,
    st.none() | st.builds(BlobRef, name=NAMES, part_bytes=st.integers(1, 2**20).map(lambda n: 8 * n)),
)
def test_an_update_head_comes_back_equal(
    state: State,
    worker: str,
    num_samples: int,
    train_s: float,
    trained: dict[str, float],
    evaluated: dict[str, float],
    blob: BlobRef | None,
) -> None:
    head = update_head(
        state,
        worker=worker,
        num_samples=num_samples,
        train_s=train_s,
        train_metrics=trained,
        eval_metrics=evaluated,
        blob=blob,
    )
    assert decode(encode(head), UpdateHead)[0] == head


@settings(max_examples=100)
@given(STATES, st.lists(NAMES, min_size=1, max_size=6, unique=True), st.floats(0, 1e9), METRICS, st.data())
def test_a_partial_head_comes_back_equal(
    state: State, workers: list[str], bound: float, metrics: dict[str, float], data: st.DataObject
) -> None:
    num_samples = st.integers(1, 2**29 - 1)
    updates = [
        Folded(
            worker=worker,
            instance="00112233",
            num_samples=data.draw(num_samples),
            num_bytes=data.draw(st.integers(0, 2**40)),
            train_s=1.5,
            sent_at=2.5,
            train_metrics=metrics,
        )
        for worker in workers
    ]
    fields = {"sha256": "0" * 64, "bound": bound, "sequence": data.draw(st.integers(0, 9))}
    head = partial_head(SMALL, **fields, updates=updates, tensors=specs_of(state))
    assert decode(encode(head), PartialHead)[0] == head


@settings(max_examples=100)
@given(
    st.builds(
        LocalTraining,
        epochs=st.integers(1, 100_000),
        batch_size=st.integers(0, 2**31),
        lr=st.floats(0, 1e6, exclude_min=True),
        momentum=st.floats(0, 1, exclude_max=True),
        mu=st.floats(0, 1e6),
        max_steps=st.integers(0, 2**31),
    ),
    st.booleans(),
    st.lists(NAMES, max_size=4).map(tuple),
)
def test_local_training_and_conflicts_come_back_equal(
    local: LocalTraining, is_finished: bool, name_conflicts: tuple[str, ...]
) -> None:
    head = model_head({}, local=local, is_finished=is_finished, name_conflicts=name_conflicts)
    assert decode(encode(head), ModelHead)[0] == head


@given(NAMES, st.sampled_from(["idle", "sending", "leaving"]), st.integers(0, 2**40 - 1))
def test_a_sign_of_life_comes_back_equal(worker: str, state: str, round_number: int) -> None:
    fields = {"worker": worker, "instance": "00112233", "state": state, "round": round_number}
    presence = Presence.model_validate(fields)
    assert decode(encode(presence), Presence)[0] == presence


@settings(max_examples=200)
@given(STATES, st.integers(1, 40).map(lambda n: 8 * n))
def test_parts_of_any_size_are_the_payload_again_and_never_split_an_element(state: State, part_bytes: int) -> None:
    specs = specs_of(state)
    parts = list(cut(chunks(state, specs), part_bytes))

    assert b"".join(parts) == payload_of(state)
    assert all(len(part) == part_bytes for part in parts[:-1])
    assert len(parts) == BlobRef(name="b", part_bytes=part_bytes).num_parts(num_bytes_of(specs))
    starts = [sum(spec.num_bytes for spec in specs[:index]) for index in range(len(specs))]
    for spec, start in zip(specs, starts, strict=True):
        assert start % spec.item_bytes == 0
        assert (-start) % part_bytes % spec.item_bytes == 0


@settings(max_examples=100)
@given(STATES, st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_names_or_on_the_cuts(state: State, random: object) -> None:
    names = list(state)
    random.shuffle(names)  # type: ignore[attr-defined]
    digest = Digest(specs_of(state))
    for part in cut([payload_of(state)], 8):
        digest.add(part)

    assert digest_of({name: state[name] for name in names}) == digest.hex() == digest_of(state)
