"""A worker with a roster takes only an aggregator's models, never goes back, and answers only what its site allows."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.members import FEDERATION, FOREIGN, SEALED, SIGNED, UNSIGNED, ChangingRoster, Noise, Time, admitted, member

from broker.memory import MemoryBroker, MemoryTransport
from broker.states.tensors import State, chunks, digest_of, specs_of
from broker.transport import Source
from broker.wire.codec import decode, decode_from, encode
from broker.wire.messages import LocalTraining, ModelHead, Presence, UpdateHead
from broker.wire.signatures import Signer, Trust
from broker.wire.topology import Topology
from console.errors import IdentityError
from identities.in_memory import AGGREGATOR
from identities.membership import Membership
from identities.trust import Verified
from worker.config import WorkerConfig
from worker.policy import WorkerPolicy
from worker.service import Worker
from worker.state.positions import Positions

STATE: State = {"w": torch.tensor([1.0, 2.0]), "head": torch.tensor([0.5])}
POLICY = WorkerPolicy()
BEGAN_AT = 1.8e9


@dataclass
class Site:
    """hospital-a's worker on a broker of the test's own."""

    membership: Membership = field(default_factory=lambda: member("hospital-a"))
    policy: WorkerPolicy = POLICY
    positions: Path | None = None
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    name: str = "hospital-a"

    def __post_init__(self) -> None:
        self.outside = MemoryTransport(self.broker)
        config = WorkerConfig(
            name=self.name,
            topology=Topology("updates"),
            inline_cap=2**20,
            membership=self.membership,
            policy=self.policy,
        )
        transport = MemoryTransport(self.broker)
        self.worker = Worker(config, Noise(STATE), transport, positions=Positions(self.positions))
        self.worker.start()

    def publish(self, round_number: int = 1, *, trust: Trust | None = None, **changes: Any) -> bytes:
        """Has the worker see a head, by default the aggregator's; returns it."""
        fields = {
            "tensors": specs_of(STATE),
            "sha256": digest_of(STATE),
            "run": "demo",
            "run_id": "demo.1",
            "epoch": 1,
            "round": round_number,
            "num_rounds": 9,
            "seed": 3,
            "protection": SIGNED,
            "began_at": BEGAN_AT,
        }
        head = ModelHead.model_validate(fields | changes)
        payload = b"".join(chunks(STATE, specs_of(STATE)))
        return self.show(encode(head, payload, trust=trust or FEDERATION.trust(AGGREGATOR)))

    def show(self, body: bytes) -> bytes:
        self.outside.broadcast(body)
        self.worker.step()
        return body

    @property
    def rounds(self) -> list[int]:
        """Of the models that it has answered."""
        return [decode(body, UpdateHead)[0].round for _, body in self.broker.queues[Source.UPDATES]]

    @property
    def said(self) -> Presence:
        """Its last sign of life, which is signed."""
        body = self.broker.queues[Source.PRESENCE][-1][1]
        return decode_from(body, Presence, trust=FEDERATION.trust()).header


def dropped(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


FORGED: dict[str, tuple[Callable[[Site], bytes], str]] = {
    "by a site": (lambda site: site.publish(3, trust=FEDERATION.trust("hospital-b")), "may not send a model"),
    "by the site itself": (lambda site: site.publish(3, trust=FEDERATION.trust("hospital-a")), "may not send a model"),
    "by a partial": (lambda site: site.publish(3, trust=FEDERATION.trust("shard-0")), "may not send a model"),
    "not signed": (lambda site: site.publish(3, trust=UNSIGNED), "is not signed"),
    "by a foreign aggregator": (lambda site: site.publish(3, trust=FOREIGN.trust(AGGREGATOR)), "nobody on the roster"),
    "the end of the run, not signed": (lambda site: site.publish(3, trust=UNSIGNED, is_finished=True), "not signed"),
    "the last epoch, not signed": (lambda site: site.publish(3, trust=UNSIGNED, epoch=2**40 - 1), "not signed"),
    "an earlier round": (lambda site: site.publish(1), "epoch 1, round 1 of run demo.1 comes before epoch 1, round 2"),
    "an earlier epoch": (lambda site: site.publish(7, epoch=0), "epoch 0, round 7 of run demo.1 comes before"),
    "an earlier run": (
        lambda site: site.publish(9, run_id="demo.0", epoch=9, began_at=BEGAN_AT - 60),
        "run demo.0 began before run demo.1, which this worker has seen",
    ),
    "the end of an earlier run": (
        lambda site: site.publish(9, run_id="demo.0", epoch=9, began_at=BEGAN_AT - 60, is_finished=True),
        "run demo.0 began before run demo.1",
    ),
    "of a run that does not say when it began": (
        lambda site: site.publish(9, run_id="demo.0", began_at=None),
        "run demo.0 began before run demo.1",
    ),
    "changed": (
        lambda site: site.show((body := site.publish(2))[:40] + bytes([body[40] ^ 1]) + body[41:]),
        "the signature does not fit",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_head_that_is_not_the_aggregator_s_newest_is_dropped_with_one_line(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = FORGED[name]
    site = Site()
    site.publish(2)
    make(site)
    (line,) = dropped(caplog)
    assert reason in line
    assert site.rounds == [2]
    assert not site.worker.is_finished
    site.publish(3)
    assert site.rounds == [2, 3]


@pytest.mark.parametrize("name", [name for name in FORGED if "earlier" in name])
def test_a_head_from_before_is_dropped_after_a_restart_too(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = FORGED[name]
    first = Site(positions=tmp_path / "newest-model.json")
    first.publish(2)
    again = Site(positions=tmp_path / "newest-model.json")
    make(again)
    (line,) = dropped(caplog)
    assert reason in line
    assert not again.rounds
    again.publish(2)  # which a worker that was killed while it trained has not answered
    again.publish(3)
    assert again.rounds == [2, 3]


def test_a_forged_head_leaves_no_trace_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "newest-model.json"
    site = Site(positions=path)
    site.publish(2)
    before = path.read_bytes()
    site.publish(2**40 - 1, trust=FEDERATION.trust("hospital-b"))
    site.publish(2**40 - 1, trust=UNSIGNED)
    assert path.read_bytes() == before


def test_the_newest_head_sent_once_more_is_not_answered_twice(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    body = site.publish(2)
    site.show(body)
    assert site.rounds == [2]
    assert not dropped(caplog)


def test_an_aggregator_that_starts_again_or_a_new_run_is_followed() -> None:
    site = Site()
    site.publish(2)
    site.publish(2, epoch=2)
    site.publish(1, epoch=3)
    site.publish(1, run_id="demo.2", began_at=BEGAN_AT + 60)
    assert site.rounds == [2, 2, 1, 1]


def test_a_worker_signs_its_updates_and_its_signs_of_life() -> None:
    site = Site()
    site.publish(1)
    trust = FEDERATION.trust()
    ((_, update),) = site.broker.queues[Source.UPDATES]
    message = decode_from(update, UpdateHead, trust=trust)
    assert message.signer == Signer("worker", "hospital-a")
    assert message.header.model_sha256 == digest_of(STATE)
    assert {decode_from(body, Presence, trust=trust).signer for _, body in site.broker.queues[Source.PRESENCE]} == {
        message.signer
    }


def test_a_worker_on_a_certificate_signs_with_it() -> None:
    clock = Time()
    _, trust = admitted("hospital-a-7", "hospital-a", clock=clock)
    site = Site(membership=member("hospital-a", trust=trust), name="hospital-a-7")
    site.publish(1)
    ((_, update),) = site.broker.queues[Source.UPDATES]
    signer = decode_from(update, UpdateHead, trust=FEDERATION.trust(clock=clock)).signer
    assert signer == Signer("worker", "hospital-a-7")


def test_an_aggregator_that_was_revoked_is_not_followed_any_more(caplog: pytest.LogCaptureFixture) -> None:
    roster = ChangingRoster()
    trust = Verified(roster, FEDERATION.keys["hospital-a"], clock=Time())
    site = Site(membership=member("hospital-a", trust=trust))
    site.publish(1)
    roster.roster = FEDERATION.roster.without([AGGREGATOR])
    site.publish(2)
    assert site.rounds == [1]
    assert "is revoked" in dropped(caplog)[0]


# -- the site's own policy ------------------------------------------------------------------------------------

LEAVES_LESS = [
    (WorkerPolicy(require=frozenset(SEALED)), {}, "updates of this run are not sealed, which --require asks for"),
    (WorkerPolicy(require=frozenset(SEALED)), {"protection": ()}, "are not sealed and not signed"),
    (
        WorkerPolicy(min_steps=10),
        {"local": LocalTraining(max_steps=1)},
        "the run limits training to 1 steps; --max-steps-at-least is 10",
    ),
    (WorkerPolicy(min_batch=8), {"local": LocalTraining(batch_size=1)}, "batches of 1; --min-batch is 8"),
    (WorkerPolicy(allow_shared=("w",)), {}, "the run shares 'head', which --allow-shared keeps at home"),
]


@pytest.mark.parametrize(("policy", "asked", "reason"), LEAVES_LESS)
def test_a_head_that_asks_for_less_than_the_site_does_is_not_answered_and_that_is_said(
    policy: WorkerPolicy, asked: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(policy=policy)
    site.publish(1, **asked)
    site.publish(2, **asked)
    assert not site.rounds
    assert site.said.objection is not None
    assert reason in site.said.objection
    assert sum("is not answered" in line for line in dropped(caplog)) == 1


def test_a_head_that_asks_for_enough_is_answered_and_the_objection_is_gone() -> None:
    site = Site(policy=WorkerPolicy(require=frozenset(SEALED), min_steps=10, min_batch=8, allow_shared=("w", "head")))
    site.publish(1)
    assert site.said.objection is not None
    local = LocalTraining(max_steps=10, batch_size=8)
    site.publish(2, protection=SEALED, local=local)
    assert site.rounds == [2]
    assert site.said.objection is None
    ((_, body),) = site.broker.queues[Source.UPDATES]
    assert decode(body, UpdateHead)[0].sealed is not None


def test_a_worker_without_a_key_to_seal_to_sends_nothing_in_clear() -> None:
    site = Site(membership=member("hospital-a", sealed_to=None))
    with pytest.raises(IdentityError, match="no roster names a key to seal them to"):
        site.publish(1, protection=SEALED)
    assert not site.rounds
