"""A slot: workers of a simulation that take turns. As many workers train at once as there are slots.

Each slot has its own embedded broker, so its workers run the product's code and know nothing of the slot; ``answer``
hands on what they send, in order.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from broker import MemoryBroker, MemoryTransport, Source, Transport
from broker.states import ModelForm
from broker.wire import BlobRef, Buffer, ModelHead, Presence, Reply, Topology, UpdateHead, decode, is_of_kind
from console import TaskError
from learning import Task, has_samples
from simulation.own_models import OwnModels
from simulation.secrecy import Secrecy, membership_in
from worker import OnDisk, OwnNoise, Worker, WorkerConfig


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message together with the blob that it names, on its way from one embedded broker to another."""

    source: Source
    sender: str
    body: bytes
    blob: str = ""
    parts: tuple[bytes, ...] = ()

    def deliver(self, transport: Transport) -> None:
        """Sends both to the other broker."""
        if self.blob:
            transport.write_blob(self.blob, self.parts)
        match self.source:
            case Source.MODELS:
                transport.broadcast(self.body)
            case Source.UPDATES:
                transport.send(self.body, worker=self.sender)
            case Source.PRESENCE:
                transport.announce(self.body, worker=self.sender)


def parcels(transport: Transport) -> Iterator[Parcel]:
    """Takes everything that a broker holds for this participant, as parcels."""
    while (delivery := transport.receive(0)) is not None:
        body = bytes(delivery.body)
        blob, num_parts = _blob(delivery.source, body)
        parts = tuple(bytes(part) for part in transport.read_blob(blob.name, num_parts)) if blob else ()
        yield Parcel(delivery.source, delivery.sender, body, blob.name if blob else "", parts)
        if delivery.source is Source.UPDATES:
            transport.ack([delivery])
            transport.delete_blobs([blob.name] if blob else [])


def _blob(source: Source, body: Buffer) -> tuple[BlobRef | None, int]:
    if source is Source.PRESENCE or is_of_kind(body, Reply):
        return None, 0
    if source is Source.MODELS:
        model = decode(body, ModelHead)[0]
        return model.blob, model.blob.num_parts(ModelForm.of(model).num_bytes) if model.blob else 0
    update = decode(body, UpdateHead)[0]
    return update.blob, update.blob.num_parts(update.num_bytes) if update.blob else 0


class Slot(Protocol):
    """Some of a simulation's workers, in this process or a separate one."""

    @property
    def num_workers(self) -> int: ...

    @property
    def without_samples(self) -> Sequence[str]:
        """The workers that have nothing to train on. They have turns, and nothing to say."""
        ...

    def offer(self, model: Parcel) -> None:
        """Gives all workers this model. Their answers to the one before have been taken."""
        ...

    def answer(self) -> list[Parcel]:
        """The answer of the next worker in turn to the model; nothing from one that takes no part in its round."""
        ...

    def stop(self) -> None:
        """Makes ``answer`` return soon; the slot cannot be used afterwards. Safe in a signal handler."""
        ...


class LocalSlot:
    """A slot in this process. ``sites`` are the workers' names with their tasks, in the order of their turns.

    What a worker carries from round to round is stored below ``state``, if given. With ``secrecy`` they are members.
    """

    def __init__(
        self,
        sites: Mapping[str, Task],
        *,
        topology: Topology,
        inline_cap: int,
        state: Path | None = None,
        secrecy: Secrecy | None = None,
    ) -> None:
        broker = MemoryBroker()
        self._post = MemoryTransport(broker)
        self._post.listen(Source.PRESENCE, Source.UPDATES)
        self._names = list(sites)
        self.without_samples: list[str] = []
        self._workers: list[Worker] = []
        models = OwnModels()
        for name, task in sites.items():
            with _named(name):
                if not has_samples(task):
                    self.without_samples.append(name)
                worker = Worker(
                    WorkerConfig(
                        name=name,
                        topology=topology,
                        inline_cap=inline_cap,
                        membership=membership_in(secrecy, name),
                    ),
                    task,
                    MemoryTransport(broker),
                    carried=OnDisk(state, name) if state else None,
                    noise=OwnNoise(state, name) if state else None,
                    model=models.of(name, task),
                )
            self._workers.append(worker)
        for name, worker in zip(self._names, self._workers, strict=True):
            if name not in self.without_samples:
                worker.start()
        self._turn = len(self._workers)
        self._model: ModelHead | None = None
        self._offered = ""
        self._fits = False

    @property
    def num_workers(self) -> int:
        return len(self._workers)

    @property
    def presence(self) -> Presence:
        """What the worker whose turn it is, or was last, is doing. Any thread may ask."""
        return self._workers[min(self._turn, len(self._workers) - 1)].presence

    def offer(self, model: Parcel) -> None:
        self._model = decode(model.body, ModelHead)[0]
        if not self._fits:
            self._check_fits(self._model)
        self._post.delete_blobs([self._offered])
        model.deliver(self._post)
        self._turn, self._offered = 0, model.blob

    def answer(self) -> list[Parcel]:
        name = self._names[self._turn]
        takes_part = self._model is not None and self._model.chooses(name) and name not in self.without_samples
        if takes_part:
            with _named(name):
                self._workers[self._turn].step()
        self._turn += 1
        return list(parcels(self._post)) if takes_part else []

    def _check_fits(self, head: ModelHead) -> None:
        """Before anybody trains: a site whose model is another one is known at once."""
        for name, worker in zip(self._names, self._workers, strict=True):
            with _named(name):
                worker.check_fits(head)
        self._fits = True

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Says of a TaskError at which worker it came up."""
    try:
        yield
    except TaskError as error:
        raise error if name in str(error) else TaskError(f"{name}: {error}") from error
