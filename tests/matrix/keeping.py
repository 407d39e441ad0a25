"""The keepers of the matrix's federations, as members that can be killed: what is asked of them, and where they end."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matrix.faults import PARTIAL
from matrix.faults import TARGETS as OF_ROLES
from matrix.line import Line

from aggregator.settings import AggregatorSettings
from broker.memory import MemoryBroker
from broker.wire.topology import Topology
from identities import in_memory
from keeper import Keeper, KeeperConfig, Ledger
from simulation.secrecy import Secrecy

SECURE = {"privacy": "secure", "min_sites": 3}
"""Settings of a run whose updates are masked."""
ROLE = "keeper"
TARGETS = (
    "keeper.expanding:MaskSum.add",
    "keeper.expanding:MaskSum.hold",
    "keeper.ledger:Ledger.hear_of",
    "keeper.ledger:Ledger.charge",
    "keeper.expanding:MaskSum.noised",
    "keeper.answers:Answers.release",
    "broker.memory:_BlobUpload.write",
    "broker.memory:MemoryTransport.send_release",
    "broker.memory:MemoryTransport.ack",
)
"""Where a keeper is killed."""
OF_AGGREGATOR = (
    "aggregator.rounds.open_round:OpenRound.freeze",
    "aggregator.state.ledger:Ledger.freeze",
    "broker.memory:MemoryTransport.send_request",
    "aggregator.masking.unmasking:Keepers.ask",
    "aggregator.masking.unmasking:Unmasking.take",
    "aggregator.masking.ring_sum:RingSum.add",
    "aggregator.masking.ring_sum:RingSum.unmask",
    "aggregator.masking.ring_sum:RingSum.check",
    "aggregator.state.ledger:Ledger.commit",
    "aggregator.state.ledger:Ledger.close_round",
    "aggregator.opening.broadcast:Broadcaster.publish",
    "broker.memory:MemoryTransport.ack",
    "broker.memory:MemoryTransport.delete_blobs",
)
"""Where the aggregator of such a run is killed, or frozen."""


def with_partials(secrecy: Secrecy, partials: Sequence[str]) -> Secrecy:
    """The same, with members of these names besides, who sum up shards."""
    members = in_memory(secrecy.sites, partials=partials, keepers=secrecy.keepers, secret=secrecy.secret)
    same = replace(secrecy)
    vars(same)["members"] = members  # in place of what the cached property would make
    return same


_ONLY_ELSEWHERE = ("aggregator.rounds.exact_sum:ExactSum.add", "broker.memory:MemoryTransport.lead")
"""Points of a partial aggregator that one of these federations does not come by."""
OF_PARTIAL = (
    "aggregator.masking.ring_sum:RingSum.add",
    *(target for target in OF_ROLES[PARTIAL] if target not in _ONLY_ELSEWHERE),
)
"""Where a partial aggregator is killed."""
OF_SUMS = (
    "aggregator.masking.ring_sum:RingSum.add_limbs",
    "aggregator.state.ledger:Ledger.freeze",
    "broker.memory:MemoryTransport.send_request",
    "aggregator.state.ledger:Ledger.commit",
    "aggregator.state.ledger:Ledger.close_round",
    "broker.memory:MemoryTransport.delete_blobs",
)
"""Where the aggregator of such a run is killed if partial aggregators send it sums."""


class KeptService:
    """A keeper as the federation runs it: it goes on for as long as it is asked."""

    is_finished = False

    def __init__(self, name: str, settings: AggregatorSettings, secrecy: Secrecy, broker: MemoryBroker) -> None:
        self.line = Line(broker, keeper=name)
        config = KeeperConfig(
            name=name,
            topology=Topology(settings.queue, keeper=name),
            membership=secrecy.members.membership(name),
            min_sites=settings.min_sites,
            inline_cap=settings.inline_cap,
            part_bytes=settings.part_bytes,
        )
        self._ledger = Ledger(kept_by(settings.state.parent, name))
        self._keeper = Keeper(config, self._ledger, self.line)  # type: ignore[arg-type]

    def start(self) -> None:
        self._keeper.start()

    def step(self, timeout_s: float) -> bool:
        return self._keeper.step(timeout_s)

    def close(self) -> None:
        with contextlib.closing(self._ledger):
            self.line.close()


def kept_by(folder: Path, name: str) -> Path:
    """The directory of a keeper, beside those of the others."""
    return folder / "keepers" / name
