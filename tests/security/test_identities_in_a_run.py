"""A run with a roster on a broker whose full password the attacker has: nothing that is not signed changes it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from federation import SOON_S, Command, Federation, run_command
from rabbitmq_node import wait_until
from torch import nn

from broker.rabbitmq.properties import fleeting
from broker.transport import Source, Transport
from broker.wire.codec import decode, encode
from broker.wire.messages import Folded, ModelHead, PartialHead, Presence, Status, UpdateHead
from broker.wire.signatures import Trailer
from broker.wire.topology import partial_key
from console.errors import ExitCode
from identities.membership import Credentials, Membership
from identities.public_keys import fingerprint_given
from identities.sealing import UpdateContext
from worker.rounds.trainer import derived_seed

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(600)

SITES = ("hospital-a", "hospital-b")
ROUNDS = 3
BLOBS = ("--inline-cap", "0", "--part-bytes", "8")
RUN = ("--rounds", str(ROUNDS), "--quorum", "2", "--deadline-s", "none", *BLOBS)
MANY = 30
"""More messages than those after which a sender is ignored for the round."""
LAST = 2**40 - 1


@dataclass
class Keys:
    """A roster and keys as docs/identities.md has people make them, by ``fl-keys``."""

    folder: Path

    def run(self, *words: str) -> str:
        done = run_command("operations.keys_cli", *words, folder=self.folder)
        assert done.returncode == ExitCode.OK, done.stderr
        return done.stdout

    def make(self) -> None:
        self.run("new", "admin", "--role", "admin")
        self.run("new", "aggregator", "--role", "aggregator")
        for site in SITES:
            self.run("new", site)
        self.run("roster", "--federation", "heart", *(f"keys/{name}.pub" for name in ("aggregator", *SITES)))

    @property
    def known_by(self) -> tuple[str, ...]:
        """How a process is told which roster counts."""
        return ("--roster", str(self.folder / "roster.yaml"), "--roster-key", str(self.folder / "keys" / "admin.pub"))

    def of(self, name: str) -> tuple[str, ...]:
        return (*self.known_by, "--key", str(self.folder / "keys" / f"{name}.key"))

    def as_aggregator(self) -> Membership:
        fingerprint = fingerprint_given(str(self.folder / "keys" / "admin.pub"))
        key = self.folder / "keys" / "aggregator.key"
        return Credentials(roster=self.folder / "roster.yaml", fingerprint=fingerprint, key=key).membership(
            "aggregator"
        )


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path)
    made.make()
    return made


def started(federation: Federation, keys: Keys) -> tuple[Command, list[Command]]:
    aggregator = federation.aggregator(*RUN, *keys.of("aggregator"))
    workers = [
        federation.worker(name, *keys.of(name), "--require", "signed,sealed", "--state", str(federation.folder / name))
        for name in SITES
    ]
    return aggregator, workers


def delta_of(worker: str, head: ModelHead) -> list[bytes]:
    """The bytes of what ``Attentive`` learns in the first round, tensor by tensor."""
    torch.manual_seed(head.seed)
    model = nn.Linear(3, 2)
    random = torch.Generator().manual_seed(derived_seed(head.seed, head.round, worker))
    found = []
    with torch.no_grad():
        for parameter in model.parameters():
            before = parameter.clone()
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
            found.append((parameter - before).numpy().tobytes())
    return found


@contextmanager
def consumed(federation: Federation) -> Iterator[list[bytes]]:
    """The updates that wait for an aggregator that is down; they stay where they are."""
    with federation.channel() as channel:
        bodies = []
        for _, _, body in channel.consume(federation.topology.updates, inactivity_timeout=2.0):
            if body is None:
                break
            bodies.append(body)
        yield bodies


def model(genuine: ModelHead, **changes: Any) -> bytes:
    return encode(genuine.model_copy(update={"blob": None} | changes), bytes(genuine.num_bytes))


def attack(federation: Federation, transport: Transport, genuine: ModelHead, replayed: list[bytes]) -> None:
    """All that a password is good for: forging each kind of message, and sending genuine ones again."""
    for changes in (
        {"is_finished": True},
        {"epoch": LAST},
        {"round": 77, "epoch": LAST, "is_finished": True},
        {"protection": (), "epoch": LAST},
        {"run_id": "demo.ffffffff", "began_at": time.time() + 60, "protection": ()},
    ):
        transport.broadcast(model(genuine, **changes))
    for site in SITES:
        forged = UpdateHead(
            tensors=genuine.tensors,
            sha256="0" * 64,
            run_id=genuine.run_id,
            worker=site,
            instance="0" * 16,
            round=genuine.round,
            model_sha256=genuine.sha256,
            num_samples=2**29 - 1,
            train_s=0,
            sent_at=0,
        )
        for body in (b"garbage", encode(forged, bytes(forged.num_bytes)), *replayed):
            for _ in range(MANY):
                transport.send(body, worker=site)
        for state in ("idle", "leaving"):
            transport.announce(encode(Presence(worker=site, instance="0" * 16, state=state)), worker=site)
    folded = Folded(worker=SITES[1], instance="0" * 16, num_samples=9, num_bytes=1, train_s=0, sent_at=0)
    forged_sum = PartialHead(
        tensors=genuine.tensors,
        sha256="0" * 64,
        run_id=genuine.run_id,
        round=genuine.round,
        shard=0,
        num_shards=1,
        sequence=0,
        bound=1.0,
        updates=(folded,),
    )
    properties = fleeting()
    properties.headers = {"CC": [federation.topology.updates]}  # or nothing leads a sum to a run without shards
    with federation.channel() as channel:
        channel.basic_publish("", partial_key(0), encode(forged_sum, bytes(forged_sum.num_bytes)), properties)
    transport.send_status(forged_status(genuine))


def forged_status(genuine: ModelHead) -> bytes:
    numbers = {"round": 3, "num_rounds": 3, "num_folded": 0, "target": 0, "num_present": 0}
    status = Status(run=genuine.run, run_id=genuine.run_id, state="finished", sent_at=time.time(), **numbers)
    return encode(status)


def test_a_password_of_the_broker_is_good_for_nothing_in_a_run_with_a_roster(
    federation: Federation, keys: Keys, undisturbed_sha256: Callable[..., str]
) -> None:
    expected = undisturbed_sha256(*SITES, rounds=ROUNDS)
    for site in SITES:
        federation.gates.hold(site, 1)
    federation.gates.hold("hospital-b", 2)
    first, workers = started(federation, keys)
    head = federation.wait_for_head(1)
    assert head.protection == ("signed", "sealed")
    for site in SITES:
        federation.gates.wait_for(site, 1)
    first.terminate()
    assert first.ends() == ExitCode.INTERRUPTED

    federation.gates.release("hospital-a", 1)
    workers[0].says("round   1 →")
    with consumed(federation) as waiting:
        (update,) = waiting
    assert_that_nobody_reads(update, federation, head, keys)
    with federation.transport() as attacker:
        attack(federation, attacker, head, [update])
        second = federation.aggregator(*RUN, *keys.of("aggregator"))
        second.says("the newest message on the model stream is passed over")
        federation.gates.release("hospital-b", 1)
        second.says("round   2 ← hospital-a")
        attack(federation, attacker, federation.wait_for_head(2), [update, *federation_heads(federation)])
        federation.gates.release("hospital-b", 2)
        assert [each.ends() for each in (second, *workers)] == [0, 0, 0], second.tail

        assert federation.summary["final"]["model_sha256"] == expected
        assert federation.folded() == [(number, site) for number in range(1, ROUNDS + 1) for site in SITES]
        for each in (second, *workers):
            assert "Traceback" not in each.said
        assert status_of(federation, keys) == ExitCode.OK
        attacker.send_status(forged_status(head))
        assert wait_until(lambda: status_of(federation, keys) == ExitCode.FAILED, timeout_s=SOON_S)


def federation_heads(federation: Federation) -> list[bytes]:
    """The newest genuine head, which is no update."""
    with federation.transport() as transport:
        newest = transport.newest_head()
    return [] if newest is None else [bytes(newest)]


def status_of(federation: Federation, keys: Keys) -> int:
    own = ("--queue", federation.queue, *keys.known_by)
    done = run_command("operations.status_cli", *own, folder=federation.folder, env={"FEDMQ_BROKER": federation.broker})
    assert "Traceback" not in done.stderr
    assert done.returncode == ExitCode.OK or "is not an aggregator's: the message is not signed" in done.stderr
    return done.returncode


def assert_that_nobody_reads(update: bytes, federation: Federation, model_head: ModelHead, keys: Keys) -> None:
    """Neither the message nor the blob holds any tensor of the delta; but who has the opening key finds them there."""
    head, payload = decode(update, UpdateHead)
    assert (head.worker, head.sealed is not None, bytes(payload)) == ("hospital-a", True, b"")
    assert Trailer.parse(update[12 + int.from_bytes(update[4:8], "little") :][:72]).packed
    assert head.blob is not None
    with federation.transport() as transport:
        transport.listen(Source.MODELS)
        parts = [bytes(part) for part in transport.read_blob(head.blob.name, head.blob.num_parts(head.num_bytes))]
    secret = delta_of("hospital-a", model_head)
    context = UpdateContext.of(head)
    opener = keys.as_aggregator().sealing.unseal(context, head.sealed or "")
    opened = b"".join(opener.part(index, index == len(parts) - 1, part) for index, part in enumerate(parts))
    everything = update + b"".join(parts)
    for tensor in secret:
        assert tensor in opened
        for start in range(0, len(tensor), 4):
            assert tensor[start : start + 4] not in everything


def test_a_site_that_is_revoked_in_mid_run_counts_no_more_within_seconds(federation: Federation, keys: Keys) -> None:
    federation.gates.hold("hospital-b", 2)
    aggregator, workers = started(federation, keys)
    aggregator.says("round   2 ← hospital-a")
    keys.run("revoke", "hospital-b")
    revoked_at = time.monotonic()
    time_to_look_s = 1.5
    assert not wait_until(lambda: not aggregator.is_running, timeout_s=time_to_look_s)
    federation.gates.release("hospital-b", 2)
    aggregator.says("update from 'hospital-b' set aside")
    assert "is revoked" in aggregator.said
    assert time.monotonic() - revoked_at < 30
    assert federation.folded()[-1] != (2, "hospital-b")
    for each in (*workers, aggregator):
        each.terminate()
        each.ends()
    assert federation.folded() == [(1, "hospital-a"), (1, "hospital-b"), (2, "hospital-a")]


def test_a_process_whose_key_or_roster_is_not_the_federation_s_does_not_start(
    federation: Federation, keys: Keys, tmp_path: Path
) -> None:
    foreign = Keys(tmp_path / "foreign")
    foreign.folder.mkdir()
    foreign.make()
    own = ("--queue", federation.queue, "--state", str(federation.state))
    admin = ("--roster-key", str(keys.folder / "keys" / "admin.pub"))
    for flags, reason in (
        (
            ("--roster", str(foreign.folder / "roster.yaml"), *admin, "--key", keys.of("aggregator")[-1]),
            "another admin",
        ),
        ((*keys.known_by, "--key", foreign.of("aggregator")[-1]), "nobody on the roster has key"),
        ((*keys.known_by, "--key", keys.of("hospital-a")[-1]), "which is no aggregator"),
        (keys.known_by, "--roster needs --key"),
    ):
        env = {"FEDMQ_BROKER": federation.broker}
        done = run_command("aggregator.cli", *own, *flags, folder=federation.folder, env=env)
        assert done.returncode == ExitCode.USAGE, done.stderr
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
