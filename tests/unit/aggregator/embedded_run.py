"""An aggregator on an embedded broker, fed by hand: every message is the test's own, and so is the clock."""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from toys import with_toys

from aggregator.events import Watcher, unwatched
from aggregator.service import Aggregator
from aggregator.settings import AggregatorSettings
from broker.memory import MemoryBroker, MemoryTransport
from broker.states.tensors import State, chunks, digest_of, specs_of, state_from
from broker.wire.buffers import cut
from broker.wire.codec import decode, encode
from broker.wire.messages import BlobRef, ModelHead, Presence, UpdateHead
from broker.wire.topology import Topology
from identities.membership import Membership
from learning.task import Plan

INSTANCE = "0123456789abcdef"
BELIEVING = Membership()
AT_ONCE_S = 1e-15
"""``commit_every_s`` that is over when it begins: added to the clock's time, it changes nothing."""


def state_of(**values: Any) -> State:
    """A state; lists of floats become float64, tensors stay as they are."""
    return {name: value if isinstance(value, Tensor) else as_tensor(value) for name, value in values.items()}


def as_tensor(value: Any) -> Tensor:
    is_float = torch.tensor(value).is_floating_point()
    return torch.tensor(value, dtype=torch.float64 if is_float else None)


def payload_of(state: Mapping[str, Tensor]) -> bytes:
    return b"".join(chunks(state, specs_of(state)))


class Holder(nn.Module):
    """A model that is nothing but its tensors: floats are parameters, the others, and ``buffers``, are buffers."""

    def __init__(self, state: Mapping[str, Tensor], buffers: Collection[str] = ()) -> None:
        super().__init__()
        for name, tensor in state.items():
            if tensor.is_floating_point() and name not in buffers:
                self.register_parameter(name, nn.Parameter(tensor.clone()))
            else:
                self.register_buffer(name, tensor.clone())


class StateTask:
    """A task without data. ``metrics(model)`` is its central evaluation."""

    def __init__(
        self,
        initial: State,
        metrics: Callable[[nn.Module], Mapping[str, float]] = lambda model: {},
        *,
        buffers: Collection[str] = (),
    ) -> None:
        self.initial, self.metrics, self.buffers = initial, metrics, buffers

    def model(self) -> nn.Module:
        return Holder(self.initial, self.buffers)

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        return {"num_samples": 1}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        return self.metrics(model)


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class EmbeddedRun:
    """A run in a folder. ``start`` it, ``send`` updates, ``settle``; then look at the broker and the ledger."""

    folder: Path
    task: Any
    settings: AggregatorSettings
    broker: MemoryBroker
    clock: Clock
    aggregator: Aggregator
    site: MemoryTransport
    toys: Sequence[str] = ()
    """See toys.py."""
    membership: Membership = BELIEVING

    @classmethod
    def make(
        cls,
        folder: Path,
        problem: Any,
        *,
        broker: MemoryBroker | None = None,
        clock: Clock | None = None,
        on_event: Watcher = unwatched,
        toys: Sequence[str] = (),
        membership: Membership = BELIEVING,
        **changes: Any,
    ) -> "EmbeddedRun":
        fields = {"task": "mine", "rounds": 3, "quorum": "2", "state": folder} | changes
        settings, broker, clock = AggregatorSettings(**fields), broker or MemoryBroker(), clock or Clock()
        config = replace(with_toys(settings.config, *toys), membership=membership)
        aggregator = Aggregator(config, problem, MemoryTransport(broker), clock=clock, on_event=on_event)
        return cls(folder, problem, settings, broker, clock, aggregator, MemoryTransport(broker), toys, membership)

    def start(self) -> "EmbeddedRun":
        self.aggregator.start()
        return self

    def settle(self, *, most: int = 2000) -> int:
        """Steps until nothing comes any more; fails if that takes more than ``most`` steps."""
        for number in range(most):
            if not self.aggregator.is_running or not self.aggregator.step(0):
                return number
        raise AssertionError(f"still busy after {most} steps")

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.settle()
        self.settle()  # what was due may have asked for something

    def crash(self) -> "EmbeddedRun":
        """Ends the aggregator as kill -9 would, nothing committed; returns the next one, not started."""
        return self._next(self.folder)

    def taken_over(self, folder: Path) -> "EmbeddedRun":
        """The same, but the next one has only what is on the broker."""
        return self._next(folder, state=folder, take_over=True)

    def _next(self, folder: Path, **others: Any) -> "EmbeddedRun":
        self.aggregator.close()
        changes = self.settings.model_dump(exclude={"broker"}) | others
        own = {"broker": self.broker, "clock": self.clock, "toys": self.toys, "membership": self.membership}
        return EmbeddedRun.make(folder, self.task, **own, **changes)

    def stop(self) -> None:
        """Ends the aggregator as SIGTERM would."""
        self.aggregator.stop()
        self.aggregator.run()
        self.aggregator.close()

    # -- what is out there ----------------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        return Topology(self.settings.queue)

    @property
    def head(self) -> ModelHead:
        return decode(self.broker.heads[-1], ModelHead)[0]

    @property
    def model(self) -> State:
        """The newest model, as a worker would read it."""
        head, payload = decode(self.broker.heads[-1], ModelHead)
        body = b"".join(self.broker.blobs[head.blob.name]) if head.blob else payload
        return state_from(bytearray(body), head.tensors)

    @property
    def round(self) -> int:
        return self.head.round

    @property
    def num_folded(self) -> int:
        return self.aggregator._current.updates.num_folded

    @property
    def reasons(self) -> list[str]:
        return [letter.reason for letter in self.broker.dead]

    @property
    def summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return loaded

    def query(self, query: str) -> list[tuple[Any, ...]]:
        """What anybody who opens the ledger's file sees."""
        with closing(sqlite3.connect(self.folder / "ledger.sqlite")) as database:
            return database.execute(query).fetchall()

    def verdicts(self, columns: str = "worker, verdict") -> list[tuple[Any, ...]]:
        """The updates in the ledger, after a commit of what is pending."""
        self.aggregator.finish()
        return self.query(f"SELECT {columns} FROM updates ORDER BY id")

    def closed(self, columns: str = "round, closed_by") -> list[tuple[Any, ...]]:
        return self.query(f"SELECT {columns} FROM rounds WHERE closed_by IS NOT NULL ORDER BY round")

    # -- what a site does -----------------------------------------------------------------------------------

    def update(
        self, worker: str, delta: Mapping[str, Tensor], *, blob_bytes: int | None = None, **changes: Any
    ) -> bytes:
        """An update message; with ``blob_bytes`` its body is put into a blob of parts of that size."""
        head = self.update_head(worker, delta, **changes)
        if blob_bytes is None:
            return encode(head, payload_of(delta))
        name = self.topology.update_blob(worker, head.run_id, head.round)
        self.site.write_blob(name, cut([payload_of(delta)], blob_bytes))
        return encode(head.model_copy(update={"blob": BlobRef(name=name, part_bytes=blob_bytes)}))

    def update_head(self, worker: str, delta: Mapping[str, Tensor], **changes: Any) -> UpdateHead:
        fields: dict[str, Any] = {
            "figures": {"norm": self._norm_of(delta)} if "norm" in self.head.figures else {},
            "tensors": specs_of(delta),
            "sha256": digest_of(delta),
            "run_id": self.head.run_id,
            "worker": worker,
            "instance": INSTANCE,
            "round": self.round,
            "num_samples": 1,
            "train_s": 0.5,
            "sent_at": 1.0,
        }
        return UpdateHead(**(fields | changes))

    def _norm_of(self, delta: Mapping[str, Tensor]) -> float:
        """Over the trained parameters."""
        trained = dict(self.task.model().named_parameters())
        return float(sum(delta[name].double().square().sum() for name in trained if name in delta) ** 0.5)

    def send(self, worker: str, delta: Mapping[str, Tensor], **changes: Any) -> None:
        self.site.send(self.update(worker, delta, **changes), worker=worker)

    def fold_all(self, updates: Iterable[tuple[str, Mapping[str, Tensor]]], **changes: Any) -> None:
        for worker, delta in updates:
            self.send(worker, delta, **changes)
        self.settle()

    def announce(self, worker: str, *, instance: str = INSTANCE, state: str = "idle", **fields: Any) -> None:
        presence = Presence.model_validate({"worker": worker, "instance": instance, "state": state} | fields)
        self.site.announce(encode(presence), worker=worker)
        self.settle()
