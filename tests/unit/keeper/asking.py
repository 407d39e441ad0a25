"""A keeper on an embedded broker, and an aggregator and workers that ask it for sums of masks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from unit.members import ChangingRoster, Time

from broker.memory import MemoryBroker, MemoryTransport
from broker.transport import Source
from broker.wire import (
    KeeperRequest,
    Release,
    SealedSeed,
    Topology,
    Trust,
    Withheld,
    decode,
    decode_from,
    digest_of_set,
    encode,
    is_of_kind,
    packed_seeds,
)
from identities import Membership, Sealing, in_memory, seal_seed
from identities.in_memory import AGGREGATOR
from identities.trust import Verified
from keeper import Keeper, KeeperConfig, Ledger, Noise
from keeper.events import Event
from privacy import Mask

KEEPER = "ethics"
SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")
FEDERATION = in_memory(SITES, keepers=[KEEPER, "other"], federation="heart")
FOREIGN = in_memory(SITES, keepers=[KEEPER, "other"], federation="heart")
"""The same names, and another admin's keys."""
RUN = "heart.0a1b2c3d"
MODEL = "ab" * 32
WORDS, HALVES = 40_000, 30_001
"""More than one block of each, and not a whole number of AES blocks."""


def secret_of(worker: str, number: int = 1) -> bytes:
    """The seed of a worker's mask for a round: as good as random, and the same in each run of a test."""
    return hashlib.sha256(f"{worker} {number}".encode()).digest()


def masked_of(worker: str, number: int = 1) -> str:
    """The digest of its masked body."""
    return hashlib.sha256(f"body of {worker} {number}".encode()).hexdigest()


def sealed_seed(worker: str, number: int = 1, *, secret: bytes | None = None, **changes: Any) -> SealedSeed:
    """A worker's seed for round ``number``, sealed to the keeper; ``changes`` come before it is sealed."""
    public = FEDERATION.keys[changes.get("keeper", KEEPER)].public
    fields: dict[str, Any] = {
        "run_id": RUN,
        "round": number,
        "worker": worker,
        "instance": "0123456789abcdef",
        "model_sha256": MODEL,
        "masked_sha256": masked_of(worker, number),
        "keeper": KEEPER,
        "num_words": WORDS,
        "num_halves": HALVES,
        "min_sites": 2,
        "sealed": "00" * 80,
    }
    head = SealedSeed(**(fields | changes))
    assert public.opening_key is not None
    sealed = seal_seed(secret or secret_of(worker, number), bytes.fromhex(public.opening_key), head.context)
    return head.model_copy(update={"sealed": sealed})


def seed(worker: str, number: int = 1, *, trust: Trust | None = None, **changes: Any) -> bytes:
    """The same as a message, signed by that worker."""
    return encode(sealed_seed(worker, number, **changes), trust=trust or FEDERATION.trust(worker))


def request(
    messages: Sequence[bytes], number: int = 1, *, trust: Trust | None = None, is_offer: bool = False, **changes: Any
) -> bytes:
    """What the aggregator asks with these seeds' messages."""
    heads = [decode(each, SealedSeed)[0] for each in messages]
    payload = packed_seeds(messages)
    fields: dict[str, Any] = {
        "run_id": RUN,
        "round": number,
        "keeper": KEEPER,
        "is_offer": is_offer,
        "num_words": WORDS,
        "num_halves": HALVES,
        "set_sha256": digest_of_set(RUN, number, [(head.worker, head.masked_sha256) for head in heads]),
        "seeds_sha256": hashlib.sha256(payload).hexdigest(),
    }
    return encode(KeeperRequest(**(fields | changes)), payload, trust=trust or FEDERATION.trust(AGGREGATOR))


def mask_sum(workers: Sequence[str], number: int = 1) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """What the sum of these workers' masks has to be."""
    words, halves = np.zeros(WORDS, np.uint64), np.zeros(HALVES, np.uint32)
    for worker in workers:
        mask = Mask(secret_of(worker, number))
        mask.add_to(words, 0)
        mask.add_to(halves, 8 * WORDS)
    return words, halves


@dataclass
class Asking:
    """One keeper, and the aggregator's end."""

    state: Path
    noise: Noise | None = None
    min_sites: int = 2
    takes_running: bool = False
    inline_cap: int = 8 * 2**20
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    rosters: ChangingRoster = field(default_factory=lambda: ChangingRoster(FEDERATION.roster))
    time: Time = field(default_factory=Time)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.aggregator = MemoryTransport(self.broker)
        self.aggregator.declare()
        self.aggregator.listen(Source.UPDATES)
        self.begin()

    def begin(self, **changes: Any) -> None:
        """Starts the keeper, anew if it is there already: what it had not acked comes again."""
        for name, value in changes.items():
            setattr(self, name, value)
        if hasattr(self, "keeper"):
            self.transport.close()
            self.ledger.close()
        self.ledger = Ledger(self.state)
        self.transport = MemoryTransport(self.broker, keeper=KEEPER)
        self.keeper = Keeper(self.config, self.ledger, self.transport, clock=self.time, on_event=self.events.append)
        self.keeper.start()

    @property
    def config(self) -> KeeperConfig:
        own = FEDERATION.keys[KEEPER]
        assert own.opening is not None
        trust = Verified(self.rosters, own, clock=self.time)
        return KeeperConfig(
            name=KEEPER,
            topology=Topology("updates", keeper=KEEPER),
            membership=Membership(trust, Sealing(private=[own.opening])),
            min_sites=self.min_sites,
            noise=self.noise,
            takes_running=self.takes_running,
            inline_cap=self.inline_cap,
            part_bytes=2**16,
        )

    def send(self, *bodies: bytes) -> None:
        for body in bodies:
            self.aggregator.send_request(body, keeper=KEEPER)

    def steps(self) -> None:
        """Has the keeper do all that there is to do."""
        while self.keeper.step():
            pass

    def answers(self) -> list["Answer"]:
        """What it answered since this was asked last."""
        found = []
        while (delivery := self.aggregator.receive(0)) is not None:
            found.append(self._read(bytes(delivery.body), delivery.sender))
            self.aggregator.ack([delivery])
        return found

    def ask(self, body: bytes) -> "Answer":
        """The one answer to this."""
        self.send(body)
        self.steps()
        (answer,) = self.answers()
        return answer

    def _read(self, body: bytes, sender: str) -> "Answer":
        trust = FEDERATION.trust(AGGREGATOR)
        assert sender == f"release.{KEEPER}"
        if is_of_kind(body, Withheld):
            return Answer(withheld=decode_from(body, Withheld, trust=trust).header)
        message = decode_from(body, Release, trust=trust)
        head, payload = message.header, bytes(message.payload)
        if head.blob is not None:
            parts = self.aggregator.read_blob(head.blob.name, head.blob.num_parts(head.num_bytes))
            payload = b"".join(map(bytes, parts))
        return Answer(release=head, payload=payload)


@dataclass(frozen=True)
class Answer:
    """A release with its body, or a refusal."""

    release: Release | None = None
    payload: bytes = b""
    withheld: Withheld | None = None

    @property
    def head(self) -> Release:
        assert self.release is not None, self.withheld
        return self.release

    @property
    def refusal(self) -> Withheld:
        assert self.withheld is not None, "it was released"
        return self.withheld

    @property
    def sums(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        split = 8 * self.head.tensors[0].num_elements if self.head.tensors[0].name == "words" else 0
        return np.frombuffer(self.payload[:split], np.uint64), np.frombuffer(self.payload[split:], np.uint32)
