"""A run whose masks real keepers hold: sites that the test feeds by hand, and keepers that can be killed."""

import contextlib
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unit.masking.masked_run import SITES, MaskedRun

from broker.memory import MemoryTransport
from broker.states.tensors import State
from broker.wire import Topology
from keeper import Keeper, KeeperConfig, Ledger, Noise
from keeper.ledger import LEDGER


@dataclass
class KeptRun:
    """``masked`` with one keeper of its own, both of which go on where they were after ``crash``."""

    masked: MaskedRun
    folder: Path
    noise: Noise | None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @classmethod
    def make(
        cls, folder: Path, initial: State, *, sites: tuple[str, ...] = SITES, noise: Noise | None = None, **changes: Any
    ) -> "KeptRun":
        made = cls(MaskedRun.make(folder / "state", initial, sites=sites, **changes), folder, noise)
        made.masked.start()
        made.begin_keeper()
        return made

    def begin_keeper(self) -> None:
        """Starts it; again, if it is there already: what it had not acked comes again."""
        self.stack.close()
        (name,) = self.masked.keepers
        self.masked.keepers[name].close()
        config = KeeperConfig(
            name=name,
            topology=Topology("updates", keeper=name),
            membership=self.masked.federation.membership(name),
            min_sites=3,
            noise=self.noise,
            part_bytes=64,
        )
        self.ledger = self.stack.enter_context(contextlib.closing(Ledger(self.folder / "keeper")))
        transport = self.stack.enter_context(contextlib.closing(MemoryTransport(self.masked.run.broker, keeper=name)))
        self.keeper = Keeper(config, self.ledger, transport)
        self.keeper.start()

    def crash(self) -> None:
        """Ends the aggregator as kill -9 would, and starts it again."""
        self.masked = self.masked.crash()

    def settle(self) -> None:
        """Has both do all that there is to do."""
        while self.masked.run.settle() + self.serve():
            pass

    def serve(self) -> int:
        """Has the keeper do all that there is to do; returns how many messages that were."""
        number = 0
        while self.keeper.step():
            number += 1
        return number

    def releases(self, columns: str = "round, num_updates, num_sites") -> list[tuple[Any, ...]]:
        """What the keeper's ledger says it gave."""
        with contextlib.closing(sqlite3.connect(self.folder / "keeper" / LEDGER)) as ledger:
            return ledger.execute(f"SELECT {columns} FROM releases ORDER BY round").fetchall()

    def close(self) -> None:
        self.masked.run.aggregator.close()
        self.stack.close()
