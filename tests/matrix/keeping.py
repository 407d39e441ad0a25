"""The keepers of the matrix's federations, as members that can be killed: what is asked of them, and where they end."""

import contextlib
from pathlib import Path

from matrix.line import Line

from aggregator.settings import AggregatorSettings
from broker.memory import MemoryBroker
from broker.wire.topology import Topology
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
    "aggregator.broadcast:Broadcaster.publish",
    "broker.memory:MemoryTransport.ack",
    "broker.memory:MemoryTransport.delete_blobs",
)
"""Where the aggregator of such a run is killed, or frozen."""


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
