"""A root and its partial aggregators on an embedded broker, fed by hand."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from unit.aggregator.embedded_run import BELIEVING, EmbeddedRun, StateTask

from aggregator.events import PartialWatcher, unwatched
from aggregator.partial import PartialAggregator
from aggregator.settings import AggregatorSettings
from broker.memory import MemoryTransport
from broker.states.tensors import State
from broker.transport import Source
from broker.wire.codec import decode
from broker.wire.messages import PartialHead
from broker.wire.topology import shard_of
from identities.membership import Membership

FLUSH_S = 0.2


def some_state(seed: int, scale: float = 1.0) -> State:
    """A model or delta with tensors of several dtypes, one of them empty."""
    values = np.random.default_rng(seed)
    return {
        "w": torch.from_numpy(values.standard_normal((5, 7)).astype(np.float32)) * scale,
        "v": torch.from_numpy(values.standard_normal(3)) * scale,
        "h": torch.from_numpy(values.standard_normal(9)).to(torch.bfloat16) * scale,
        "n": torch.from_numpy(values.integers(0, 50, 2)),
        "none": torch.zeros(0),
    }


def names_of(shard: int, number: int, num_shards: int = 2) -> list[str]:
    """Workers that are of this shard."""
    names = (f"site-{index}" for index in range(10_000))
    return [name for name in names if shard_of(name, num_shards) == shard][:number]


@dataclass
class ShardedRun:
    """``root`` and ``partials``; time is the root's clock."""

    root: EmbeddedRun
    partials: list[PartialAggregator]

    @classmethod
    def make(cls, folder: Path, *, num_shards: int = 2, **changes: Any) -> "ShardedRun":
        root = EmbeddedRun.make(folder, StateTask(some_state(0)), shards=num_shards, **changes)
        run = cls(root, [])
        run.partials = [run.partial(shard) for shard in range(num_shards)]
        return run

    def partial(
        self,
        index: int,
        *,
        on_event: PartialWatcher = unwatched,
        membership: Membership = BELIEVING,
        **changes: Any,
    ) -> PartialAggregator:
        own = {"role": "partial", "shard": f"{index}/{self.root.settings.shards}", "flush_s": FLUSH_S}
        shared = {name: getattr(self.root.settings, name) for name in ("run", "queue", "inline_cap", "part_bytes")}
        settings = AggregatorSettings(**(shared | own | changes))
        self.root.site.declare()  # or it would wait for that
        transport = MemoryTransport(self.root.broker, shard=index)
        config = replace(settings.partial_config, membership=membership)
        return PartialAggregator(config, transport, clock=self.root.clock, on_event=on_event)

    def start(self) -> "ShardedRun":
        """The partials first, so that they see the first round open."""
        for partial in self.partials:
            partial.start()
        self.root.start()
        self.settle()
        return self

    def restart(self, shard: int) -> None:
        """What kill -9 of a partial and the same command again do: nothing but what the broker has is left."""
        self.partials[shard].close()
        self.partials[shard] = self.partial(shard)
        self.partials[shard].start()
        self.settle()

    def settle(self) -> None:
        """Steps all until nothing comes any more; no time passes."""
        for _ in range(5000):
            happened = [partial.step(0) for partial in self.partials if not partial.is_finished]
            is_root_busy = self.root.aggregator.is_running and self.root.aggregator.step(0)
            if not is_root_busy and not any(happened):
                return
        raise AssertionError("still busy")

    def pass_time(self, seconds: float = FLUSH_S) -> None:
        self.settle()
        self.root.clock.now += seconds
        self.settle()

    # -- what sites do --------------------------------------------------------------------------------------

    def send(self, worker: str, delta: Mapping[str, Tensor], **changes: Any) -> None:
        """An update onto the queue of the worker's shard; it may be bytes of a test's own."""
        self.send_bytes(worker, self.root.update(worker, delta, **changes))

    def send_bytes(self, worker: str, body: bytes) -> None:
        self.root.site.send(body, worker=worker, num_shards=self.root.settings.shards)

    def answer(self, names: Iterable[str], **changes: Any) -> None:
        """An update for the open round from each of these, in a random order, with samples of its own."""
        number = self.root.round
        wanted = list(names)
        shuffled = random.Random(number).sample(wanted, len(wanted))
        for name in shuffled:
            self.send(name, delta_of(name, number), num_samples=samples_of(name), **changes)

    # -- what is out there ----------------------------------------------------------------------------------

    def waiting(self) -> list[tuple[str, bytes]]:
        """(sender, body) of what waits for the root."""
        return list(self.root.broker.queues[Source.UPDATES])

    def step_partials(self) -> None:
        """Lets the partials do all there is, while the root sleeps."""
        is_busy = True
        while is_busy:
            happened = [partial.step(0) for partial in self.partials]
            is_busy = any(happened)

    def intercept(self) -> list[tuple[str, bytes]]:
        """Takes what waits for the root away from it."""
        taken = self.waiting()
        self.root.broker.queues[Source.UPDATES].clear()
        return taken

    def left_in_shards(self) -> int:
        return sum(len(queue) for queue in self.root.broker.shards.values())


def delta_of(worker: str, round_number: int) -> State:
    return some_state(hash_of(f"{worker}/{round_number}"), scale=0.1)


def samples_of(worker: str) -> int:
    return 1 + hash_of(worker) % 1000


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode(), "little") % (2**31 - 1)


def workers_in(body: bytes) -> list[str]:
    """Whose updates a partial sum is of."""
    return [update.worker for update in decode(body, PartialHead)[0].updates]
