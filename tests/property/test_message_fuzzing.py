"""10,000 broken messages: each is decoded or refused with a reason, and no error is of another kind."""

import contextlib
import logging

import pytest
import torch
from bodies import ANY_PART_BYTES, body_of
from exact_sums import mean_of
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.aggregator.embedded_run import Holder, StateTask
from wire_samples import (
    ANSWERS,
    MODELS,
    PARTIALS,
    SMALL,
    SUM_BLOB,
    UPDATES,
    altered,
    broken,
    folded_or_refused,
    garbage,
    model_head,
    payload_of,
    sum_of,
)

from aggregator.rounds.answers import is_answer, read_answer
from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.intake import Expected, read_update
from aggregator.rounds.open_round import add_to
from aggregator.rounds.partial_sum import read_partial
from broker.memory import MemoryBroker, MemoryTransport
from broker.modules.selection import ALL
from broker.states.compression import Encoding
from broker.states.tensors import specs_of
from broker.transport import Delivery, Source
from broker.wire.codec import decode, encode
from broker.wire.messages import Compression, Header, ModelHead, PartialHead, Presence, Reply, Status, UpdateHead
from broker.wire.topology import Topology, partial_key
from console.errors import BlobLost, MalformedMessage, MessageError, UnfitMessage
from worker.config import WorkerConfig
from worker.service import Worker


def assert_decoded_or_malformed(body: bytes, kind: type[Header]) -> None:
    try:
        head, payload = decode(body, kind)
    except MalformedMessage as error:
        reason = str(error)
    else:
        reason = "none"
        assert isinstance(head, kind)
        assert isinstance(payload, memoryview)
        assert decode(encode(head, payload), kind) == (head, payload)
    assert reason


@settings(max_examples=2500)
@given(broken(UPDATES))
def test_a_broken_update_is_decoded_or_malformed(body: bytes) -> None:
    assert_decoded_or_malformed(body, UpdateHead)


@settings(max_examples=1500)
@given(altered(UPDATES))
def test_an_update_with_other_fields_is_decoded_or_malformed(body: bytes) -> None:
    assert_decoded_or_malformed(body, UpdateHead)


@settings(max_examples=2000)
@given(broken(MODELS))
def test_a_broken_model_is_decoded_or_malformed(body: bytes) -> None:
    assert_decoded_or_malformed(body, ModelHead)


@settings(max_examples=1000)
@given(altered(MODELS))
def test_a_model_with_other_fields_is_decoded_or_malformed(body: bytes) -> None:
    assert_decoded_or_malformed(body, ModelHead)


@settings(max_examples=1000)
@given(broken(ANSWERS) | altered(ANSWERS) | garbage())
def test_an_answer_is_told_from_others_read_or_refused(body: bytes) -> None:
    encoding = Encoding(specs_of(SMALL), Compression())
    expected = Expected("demo.0a1b2c3d", encoding, Topology("updates"), ANY_PART_BYTES)
    delivery = Delivery(Source.UPDATES, body, "site-a")
    assert is_answer(delivery) in (True, False)
    with contextlib.suppress(MessageError):
        read_answer(delivery, expected, round_number=3)


@settings(max_examples=1000)
@given(garbage())
def test_garbage_is_malformed_as_any_kind(body: bytes) -> None:
    for kind in (UpdateHead, Reply, ModelHead, PartialHead, Presence, Status):
        with pytest.raises(MalformedMessage) as caught:
            decode(body, kind)
        assert str(caught.value)


@settings(max_examples=1500)
@given(broken(UPDATES) | altered(UPDATES) | garbage(), st.binary(max_size=70))
def test_an_aggregator_reads_any_update_or_refuses_it_and_its_sum_stays_finite(body: bytes, part: bytes) -> None:
    """Through its whole way: header, fit, blob, digest, sum."""
    encoding = Encoding(specs_of(SMALL), Compression())
    expected = Expected("demo.0a1b2c3d", encoding, Topology("updates"), ANY_PART_BYTES)
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    transport.write_blob("updates.blob.update.site-a.demo.0a1b2c3d.3", [part[:16], part[16:]])
    folded_or_refused(body, expected, transport)


@settings(max_examples=1000)
@given(broken(PARTIALS) | altered(PARTIALS))
def test_a_broken_partial_sum_is_decoded_or_malformed(body: bytes) -> None:
    assert_decoded_or_malformed(body, PartialHead)


@settings(max_examples=1500)
@given(broken(PARTIALS) | altered(PARTIALS) | garbage(), st.binary(max_size=70))
def test_a_root_reads_any_partial_sum_or_refuses_it_and_its_sum_stays_in_its_range(body: bytes, part: bytes) -> None:
    """Through its whole way: header, fit, blob, digest, sum."""
    expected = Expected("demo.0a1b2c3d", Encoding(specs_of(SMALL), Compression()), Topology("updates", num_shards=1))
    transport = MemoryTransport(MemoryBroker())
    transport.write_blob(SUM_BLOB.name, [part[number : number + 16] for number in range(0, 70, 16)])
    exact_sum = ExactSum(expected.encoding.folded)
    try:
        partial = read_partial(Delivery(Source.UPDATES, body, partial_key(0)), expected, round_number=5)
        with body_of(partial, transport) as whole:
            add_to(exact_sum, partial, whole, [1.0])
    except (MessageError, BlobLost) as error:
        reason = str(error)
        assert not any(limb.any() for limb in exact_sum.limbs().values())
    else:
        reason = "none"
    assert reason
    assert all(abs(mean_of(exact_sum, spec, 1)).max(initial=0) < 2**30 + 1 for spec in exact_sum.specs)


@settings(max_examples=500)
@given(broken(MODELS) | altered(MODELS) | garbage(), st.binary(max_size=70))
def test_a_worker_drops_any_bad_model_and_takes_part_in_the_next_good_one(body: bytes, part: bytes) -> None:
    """A message that comes out whole may be the model of a later round, or end the run; then that is right."""
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    transport.write_blob("updates.blob.update.site-a.demo.0a1b2c3d.3", [part[:16], part[16:]])
    config = WorkerConfig(name="site-a", topology=Topology("updates"), inline_cap=2**20)
    worker = Worker(config, StateTask(SMALL), MemoryTransport(broker))
    worker.start()
    transport.broadcast(body)
    try:
        head: ModelHead | None = decode(body, ModelHead)[0]
    except MalformedMessage:
        head = None
    if head is not None and not head.is_finished and (head.tensors, head.shared) != (specs_of(SMALL), ALL):
        return  # a model of another task: it ends the worker, see the worker's own tests
    worker.step()
    assert worker.is_finished == (head is not None and head.is_finished)
    if head is None:
        assert not broker.queues[Source.UPDATES]
    if not worker.is_finished and (head is None or head.run_id != "demo.0a1b2c3d" or head.round < 2**39):
        num_sent = len(broker.queues[Source.UPDATES])
        good = model_head(SMALL, round=2**39 + 1, max_staleness=1)
        transport.broadcast(encode(good, payload_of(SMALL)))
        worker.step()
        assert len(broker.queues[Source.UPDATES]) == num_sent + 1


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def test_the_samples_are_valid_before_they_are_broken() -> None:
    for body in UPDATES:
        decode(body, UpdateHead)
    for body in MODELS:
        decode(body, ModelHead)
    expected = Expected("demo.0a1b2c3d", Encoding(specs_of(SMALL), Compression()), Topology("updates", num_shards=1))
    for body in PARTIALS:
        read_partial(Delivery(Source.UPDATES, body, partial_key(0)), expected, round_number=3)
    whole = read_partial(Delivery(Source.UPDATES, PARTIALS[0], partial_key(0)), expected, round_number=3)
    assert b"".join(piece for _, piece in whole.in_message.pieces()) == sum_of(SMALL)[0]
    assert torch.equal(Holder(SMALL).state_dict()["w"], SMALL["w"])
    with pytest.raises(UnfitMessage):
        read_update(
            Delivery(Source.UPDATES, UPDATES[0], "site-b"),
            Expected("demo.0a1b2c3d", Encoding(specs_of(SMALL), Compression()), Topology("updates")),
            round_number=5,
        )
