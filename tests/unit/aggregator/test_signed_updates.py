"""With a roster: what is set aside, whom it is held against, and what nobody but its sender can bring about."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from unit.aggregator.embedded_run import EmbeddedRun, StateTask
from unit.members import (
    FEDERATION,
    FOREIGN,
    SEALED,
    UNSIGNED,
    ChangingRoster,
    Time,
    admitted,
    member,
    signed_update,
)

from aggregator.senders.quota import MOST_OF_ONE
from broker.states.tensors import State
from broker.wire.codec import encode
from broker.wire.messages import Presence
from broker.wire.signatures import Trust
from identities.in_memory import AGGREGATOR
from identities.trust import Verified

INITIAL: State = {"w": torch.zeros(4)}
DELTA: State = {"w": torch.ones(4)}
OPENING = FEDERATION.roster.opening_key
MANY = 2 * MOST_OF_ONE


@pytest.fixture
def run(tmp_path: Path) -> Iterator[EmbeddedRun]:
    """A run that asks for sealed updates of both sites."""
    made = EmbeddedRun.make(tmp_path / "run", StateTask(INITIAL), membership=member(AGGREGATOR, SEALED)).start()
    yield made
    made.aggregator.close()


def genuine(run: EmbeddedRun, worker: str = "hospital-a", *, trust: Trust | None = None) -> bytes:
    return signed_update(run, worker, DELTA, trust=trust, sealed_to=OPENING)


def flipped(body: bytes, *, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def header_end(body: bytes) -> int:
    return 12 + int.from_bytes(body[4:8], "little")


def send(run: EmbeddedRun, body: bytes, *, times: int = 1, sender: str = "hospital-a") -> None:
    for _ in range(times):
        run.site.send(body, worker=sender)
    run.settle()


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def by_other_site(run: EmbeddedRun) -> bytes:
    return genuine(run, trust=FEDERATION.trust("hospital-b"))


def of_other_site(run: EmbeddedRun) -> bytes:
    return genuine(run, "hospital-b")


def of_other_model(run: EmbeddedRun) -> bytes:
    return signed_update(run, "hospital-a", DELTA, sealed_to=OPENING, model_sha256="0" * 64)


def of_other_run(run: EmbeddedRun) -> bytes:
    return signed_update(run, "hospital-a", DELTA, sealed_to=OPENING, run_id="demo.0")


ANYBODY_S: dict[str, tuple[Callable[[EmbeddedRun], bytes], str]] = {
    "garbage": (lambda run: b"garbage", "not a fedmq message"),
    "not signed": (lambda run: genuine(run, trust=UNSIGNED), "the message is not signed"),
    "signed by another site": (by_other_site, "claims to be from hospital-a, but is signed by worker hospital-b"),
    "another site's": (of_other_site, "claims to be from hospital-b, but came with the key of 'hospital-a'"),
    "signed by a partial": (lambda run: genuine(run, trust=FEDERATION.trust("shard-0")), "may not send an update"),
    "by a foreign roster": (lambda run: genuine(run, trust=FOREIGN.trust("hospital-a")), "nobody on the roster has"),
    "its header changed": (lambda run: flipped(body := genuine(run), at=header_end(body) - 1), "does not fit"),
    "its signature changed": (lambda run: flipped(body := genuine(run), at=header_end(body) + 20), "does not fit"),
    "its body changed": (lambda run: flipped(body := genuine(run), at=len(body) - 1), "does not open"),
    "its body cut off": (lambda run: genuine(run)[:-1], "its body has 31 bytes; its tensors need 32"),
    "from another model": (of_other_model, "it was trained from model 000000000000…"),
    "of another run": (of_other_run, "update of run demo.0"),
}
"""What anybody who reaches the broker can send under the key of hospital-a, replays included -> the reason."""

ITS_OWN: dict[str, tuple[Callable[[EmbeddedRun], bytes], str]] = {
    "not sealed": (lambda run: signed_update(run, "hospital-a", DELTA), "its body is not sealed"),
    "sealed to another key": (
        lambda run: signed_update(run, "hospital-a", DELTA, sealed_to=FOREIGN.roster.opening_key),
        "it was sealed to another key",
    ),
    "without its model": (
        lambda run: signed_update(run, "hospital-a", DELTA, sealed_to=OPENING, model_sha256=None),
        "it does not name the model",
    ),
}
"""What only hospital-a can have signed for the model of the open round -> the reason."""


@pytest.mark.parametrize("name", [*ANYBODY_S, *ITS_OWN])
def test_what_is_not_signed_and_sealed_for_this_model_is_set_aside_with_one_line(
    run: EmbeddedRun, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = (ANYBODY_S | ITS_OWN)[name]
    send(run, make(run))
    assert run.num_folded == 0
    assert len(run.reasons) == 1
    assert reason in run.reasons[0]
    assert len(warned(caplog)) == 1
    send(run, genuine(run))
    assert run.num_folded == 1
    assert run.verdicts() == [("hospital-a", "refused"), ("hospital-a", "folded")]


@pytest.mark.parametrize("name", ANYBODY_S)
def test_a_site_is_heard_whatever_others_send_in_its_name(run: EmbeddedRun, name: str) -> None:
    make, _ = ANYBODY_S[name]
    send(run, make(run), times=MANY)
    assert len(run.reasons) == MOST_OF_ONE
    send(run, genuine(run))
    assert run.num_folded == 1


@pytest.mark.parametrize("name", ITS_OWN)
def test_a_site_that_signs_what_does_not_fit_is_ignored_for_the_round(
    run: EmbeddedRun, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, _ = ITS_OWN[name]
    send(run, make(run), times=MANY)
    assert sum("from 'hospital-a' did not count in round 1" in line for line in warned(caplog)) == 1
    send(run, genuine(run))
    assert run.num_folded == 0
    send(run, genuine(run, "hospital-b"), sender="hospital-b")
    assert run.num_folded == 1


def test_genuine_updates_sent_once_more_count_once_and_cost_their_site_nothing(run: EmbeddedRun) -> None:
    first = genuine(run)
    send(run, first, times=MANY)
    assert run.num_folded == 1
    send(run, genuine(run, "hospital-b"), sender="hospital-b")
    assert run.round == 2
    send(run, first, times=MANY)
    assert run.num_folded == 0
    send(run, genuine(run))
    assert run.num_folded == 1
    assert run.verdicts().count(("hospital-a", "folded")) == 2
    assert not run.reasons


def begin_blob(run: EmbeddedRun, *, num_parts: int) -> tuple[bytes, Callable[[], None]]:
    """hospital-a's update, with so many parts of its blob there; and what adds the others."""
    body = signed_update(run, "hospital-a", DELTA, sealed_to=OPENING, blob_bytes=8)
    (name,) = run.broker.blobs
    parts = run.broker.blobs[name]
    run.broker.blobs[name] = parts[:num_parts]
    return body, lambda: run.broker.blobs.update({name: parts})


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[EmbeddedRun]:
    """The same run, whose updates travel in blobs."""
    made = EmbeddedRun.make(
        tmp_path / "run", StateTask(INITIAL), membership=member(AGGREGATOR, SEALED), inline_cap=0, part_bytes=8
    )
    run = made.start()
    run.broker.blobs.clear()  # the model's
    yield run
    run.aggregator.close()


def test_an_update_sent_many_times_while_its_body_is_on_its_way_is_folded_once(blobs: EmbeddedRun) -> None:
    body, complete = begin_blob(blobs, num_parts=1)
    send(blobs, body, times=MANY)
    assert blobs.num_folded == 0
    complete()
    blobs.settle()
    assert blobs.num_folded == 1
    assert set(blobs.reasons) == {"it was sent twice, and its body is on its way already"}
    assert blobs.verdicts().count(("hospital-a", "folded")) == 1


def test_a_site_is_heard_although_others_spoil_its_blob(blobs: EmbeddedRun) -> None:
    for _ in range(MANY):
        body, _ = begin_blob(blobs, num_parts=2)
        (name,) = blobs.broker.blobs
        blobs.broker.blobs[name] = tuple(flipped(part, at=3) for part in blobs.broker.blobs[name])
        send(blobs, body)
    assert "does not open" in blobs.reasons[0]
    assert len(blobs.reasons) == MOST_OF_ONE
    body, _ = begin_blob(blobs, num_parts=2)
    send(blobs, body)
    assert blobs.num_folded == 1


# -- signs of life --------------------------------------------------------------------------------------------


def announce(run: EmbeddedRun, trust: Trust, *, worker: str = "hospital-a", sender: str = "hospital-a") -> int:
    """The number of workers present afterwards."""
    presence = Presence(worker=worker, instance="0" * 16, state="idle")
    run.site.announce(encode(presence, trust=trust), worker=sender)
    run.settle()
    return run.aggregator._current.num_present


def test_a_forged_sign_of_life_counts_for_nothing(run: EmbeddedRun, caplog: pytest.LogCaptureFixture) -> None:
    assert announce(run, UNSIGNED) == 0
    assert announce(run, FEDERATION.trust("hospital-b")) == 0
    assert announce(run, FOREIGN.trust("hospital-a")) == 0
    assert announce(run, FEDERATION.trust(AGGREGATOR)) == 0
    lines = warned(caplog)
    assert [line.partition(" dropped: ")[0] for line in lines] == ["sign of life from 'hospital-a'"] * 4
    assert "claims to be from hospital-a, but is signed by worker hospital-b" in lines[1]
    assert announce(run, FEDERATION.trust("hospital-a"), sender="hospital-b") == 0
    assert announce(run, FEDERATION.trust("hospital-a")) == 1


# -- who leaves in mid-run ------------------------------------------------------------------------------------


def test_a_worker_whose_certificate_expires_counts_until_then(tmp_path: Path) -> None:
    clock = Time()
    trust = FEDERATION.trust(AGGREGATOR, clock=clock)
    membership = member(AGGREGATOR, SEALED, trust=trust)
    run = EmbeddedRun.make(tmp_path, StateTask(INITIAL), membership=membership, quorum="1").start()
    _, own = admitted("hospital-a-7", "hospital-a", clock=clock, days=1)
    send(run, genuine(run, "hospital-a-7", trust=own), sender="hospital-a-7")
    assert run.round == 2
    clock.now += 86400 + 1
    send(run, genuine(run, "hospital-a-7", trust=own), sender="hospital-a-7")
    assert len(run.reasons) == 1
    assert run.reasons[0].startswith("the certificate of hospital-a-7 expired 20")
    send(run, genuine(run))
    assert run.round == 3
    run.aggregator.close()


def test_a_revoked_site_and_the_workers_that_it_admitted_count_no_more(tmp_path: Path) -> None:
    roster, keys = ChangingRoster(), FEDERATION.keys[AGGREGATOR]
    membership = member(AGGREGATOR, SEALED, trust=Verified(roster, keys, clock=Time()))
    run = EmbeddedRun.make(tmp_path, StateTask(INITIAL), membership=membership).start()
    _, own = admitted("hospital-b-7", "hospital-b", clock=Time())
    send(run, genuine(run, "hospital-b-7", trust=own), sender="hospital-b-7")
    assert run.num_folded == 1
    send(run, genuine(run))
    assert run.round == 2
    roster.roster = FEDERATION.roster.without(["hospital-b"])
    send(run, genuine(run, "hospital-b"), sender="hospital-b")
    send(run, genuine(run, "hospital-b-7", trust=own), sender="hospital-b-7")
    assert run.num_folded == 0
    assert "is revoked" in run.reasons[0]
    assert "which is that of no site on the roster" in run.reasons[1]
    assert announce(run, FEDERATION.trust("hospital-b"), worker="hospital-b", sender="hospital-b") == 0
    run.aggregator.close()


# -- an aggregator that starts again --------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"epoch": 2**40 - 1}, {"is_finished": True}, {"round": 77}, {"run_id": "demo.0"}])
def test_after_a_forged_head_a_restarted_aggregator_goes_on_and_publishes_its_own(
    run: EmbeddedRun, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    send(run, genuine(run))
    genuine_head = run.head
    forged = genuine_head.model_copy(update=change)
    run.site.broadcast(encode(forged, b"", trust=FEDERATION.trust("hospital-b")))
    run.stop()
    again = run.crash().start()
    assert sum("the newest message on the model stream is passed over" in line for line in warned(caplog)) >= 1
    assert (again.head.run_id, again.round, again.head.is_finished) == (genuine_head.run_id, 1, False)
    assert again.head.sha256 == genuine_head.sha256
    again.settle()
    assert again.num_folded == 1
    send(again, genuine(again, "hospital-b"), sender="hospital-b")
    assert again.round == 2
    again.aggregator.close()


def test_a_run_that_asks_only_for_signatures_also_takes_sealed_updates(tmp_path: Path) -> None:
    run = EmbeddedRun.make(tmp_path, StateTask(INITIAL), membership=member(AGGREGATOR)).start()
    assert run.head.protection == ("signed",)
    send(run, genuine(run))
    send(run, signed_update(run, "hospital-b", DELTA), sender="hospital-b")
    assert run.round == 2
    run.aggregator.close()


def test_without_a_roster_a_sealed_update_cannot_be_opened(tmp_path: Path) -> None:
    nobody = replace(member("hospital-a"), trust=UNSIGNED, protection=())
    run = EmbeddedRun.make(tmp_path, StateTask(INITIAL), membership=nobody).start()
    send(run, genuine(run))
    assert run.reasons == ["its body is sealed, and there is no key here that opens it"]
    run.aggregator.close()
