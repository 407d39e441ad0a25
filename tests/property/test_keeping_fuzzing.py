"""Broken messages between workers, aggregator and keepers: each is decoded or refused, with no other error."""

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.keeper.asking import FEDERATION, KEEPER, MODEL, RUN, SITES, Asking, request, seed
from wire_samples import BLOB, altered, broken, damaged, garbage, header_bytes, message

from broker.wire import KeeperRequest, Release, SealedSeed, Withheld, decode, decode_from, encode, mask_specs
from broker.wire.keeping import packed_seeds, unpacked_seeds
from broker.wire.messages import Header
from console import MessageError
from identities.in_memory import AGGREGATOR

SIZES: dict[str, Any] = {"num_words": 3, "num_halves": 2}
SEEDS = [seed(name, clip=0.5, step=2.0**-20, **SIZES) for name in SITES[:3]]
ANSWER = {"run_id": RUN, "round": 1, "keeper": KEEPER, "set_sha256": MODEL}
SUM = Release(tensors=mask_specs(3, 2), sha256=MODEL, num_updates=3, num_sites=3, noise=1.5, **ANSWER)
NO = Withheld(reason="too few sites", is_final=False, unfit={"hospital-a": "does not open"}, **ANSWER)
SIGNED: dict[type[Header], list[bytes]] = {
    SealedSeed: SEEDS,
    KeeperRequest: [request(SEEDS, **SIZES), request(SEEDS, is_offer=True, **SIZES)],
    Release: [
        encode(SUM, bytes(32), trust=FEDERATION.trust(KEEPER)),
        encode(SUM.model_copy(update={"blob": BLOB}), trust=FEDERATION.trust(KEEPER)),
    ],
    Withheld: [encode(NO, trust=FEDERATION.trust(KEEPER))],
}
SIGNERS = {SealedSeed: SITES[0], KeeperRequest: AGGREGATOR, Release: KEEPER, Withheld: KEEPER}
KINDS = st.sampled_from(sorted(SIGNED, key=lambda kind: kind.__name__))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@settings(max_examples=500)
@given(st.data())
def test_a_broken_one_is_decoded_or_refused_and_what_is_decoded_can_be_sent_again(data: st.DataObject) -> None:
    kind = data.draw(KINDS)
    body = data.draw(broken(SIGNED[kind]) | altered(SIGNED[kind]) | garbage())
    try:
        head, payload = decode(body, kind)
    except MessageError as error:
        reason = str(error)
    else:
        reason = "none"
        assert decode(encode(head, payload), kind) == (head, payload)
    assert reason


@settings(max_examples=400)
@given(st.data())
def test_with_a_signature_any_change_of_a_header_is_refused(data: st.DataObject) -> None:
    kind = data.draw(KINDS)
    body = data.draw(broken(SIGNED[kind]))
    try:
        decode_from(body, kind, trust=FEDERATION.trust())
    except MessageError as error:
        reason = str(error)
    else:
        reason = "none"
        assert header_bytes(body) in map(header_bytes, SIGNED[kind])
    assert reason


@settings(max_examples=500)
@given(damaged([packed_seeds(SEEDS)]) | st.binary(max_size=300))
def test_packed_seeds_are_unpacked_or_refused(payload: bytes) -> None:
    try:
        messages = list(unpacked_seeds(payload))
    except MessageError as error:
        reason = str(error)
    else:
        reason = "none"
        assert packed_seeds(messages) == payload
    assert reason


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Asking:
    return Asking(tmp_path_factory.mktemp("keeper"))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_keeper_drops_or_refuses_whatever_it_is_sent_and_charges_nothing(data: st.DataObject, asking: Asking) -> None:
    """Also what an aggregator's own key has signed: any header, and any seeds."""
    good = SIGNED[KeeperRequest][0]
    if data.draw(st.booleans()):
        packed, payload = header_bytes(data.draw(altered([good]) | broken([good]))), packed_seeds(SEEDS)
        body = message(packed, payload, trailer=FEDERATION.trust(AGGREGATOR).sign("request", packed))
        is_as_it_was = packed == header_bytes(good)
    else:
        body = data.draw(broken([good]) | garbage())
        is_as_it_was = header_bytes(body) == header_bytes(good)
    before = asking.ledger.num_releases()
    asking.send(body)
    asking.steps()
    asking.answers()
    if not is_as_it_was and not _asks_for_the_same(body, good):
        assert asking.ledger.num_releases() == before


def _asks_for_the_same(body: bytes, good: bytes) -> bool:
    """Whether what was changed makes no other request."""
    try:
        found, wanted = decode(body, KeeperRequest)[0], decode(good, KeeperRequest)[0]
    except MessageError:
        return False
    return found == wanted


def test_the_samples_are_valid_before_they_are_broken() -> None:
    for kind, bodies in SIGNED.items():
        for body in bodies:
            assert decode_from(body, kind, trust=FEDERATION.trust()).signer is not None
    assert [bytes(each) for each in unpacked_seeds(packed_seeds(SEEDS))] == SEEDS
