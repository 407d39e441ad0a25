"""Putting a global model where every worker finds it: inline with its head, or as a blob that the head names."""

from collections.abc import Iterable
from dataclasses import dataclass

from aggregator.events import Watcher, unwatched
from aggregator.run import Run, newest_head
from aggregator.settings import AggregatorSettings
from aggregator.state import Ledger, StateDirectory
from broker import Transport
from broker.wire import BlobRef, Buffer, ModelHead, Topology, cut, encode, num_bytes_of
from console import told

_MAX_CONFLICTS = 1000


@dataclass(frozen=True, slots=True)
class Staged:
    """The body of a model, ready to be published: the bytes that go with its head, or the blob that it names."""

    payload: bytes = b""
    blob: BlobRef | None = None


class Broadcaster:
    """The aggregator's side of the model stream."""

    def __init__(
        self,
        run: Run,
        settings: AggregatorSettings,
        *,
        transport: Transport,
        directory: StateDirectory,
        ledger: Ledger,
        tell: Watcher = unwatched,
    ) -> None:
        self._run, self._settings = run, settings
        self._tell = tell
        self._transport, self._directory, self._ledger = transport, directory, ledger
        self._topology = Topology(settings.queue)
        self._conflicts: set[str] = set()
        self._head: ModelHead | None = None

    def ensure(self, number: int, *, is_finished: bool = False) -> None:
        """Publishes the model that round ``number`` begins with unless it is the newest on the stream.

        Who answered already answers again to a head of a new epoch, and to no other.
        ``is_finished`` says that the run is over, and the model the final one.
        """
        newest = newest_head(self._transport)
        head = newest[0] if newest else None
        if head is None or head.run_id != self._run.run_id:
            self.publish(number, self._stage_file(number), is_finished=is_finished)
            self._delete_earlier_run(head)
        elif (head.round, head.is_finished) != (number, is_finished) or head.epoch < self._ledger.min_epoch():
            self.publish(number, self._stage_file(number), is_finished=is_finished)
        else:
            self._head = head

    def stage(self, number: int, pieces: Iterable[Buffer]) -> Staged:
        """Brings the body of the model that round ``number`` begins with to where its head will find it.

        Nobody reads it before that head is out: the round before may still be open, and closed with other bits.
        """
        if num_bytes_of(self._run.specs) <= self._settings.inline_cap:
            return Staged(b"".join(pieces))
        part_bytes = self._settings.part_bytes
        parts = told(
            cut(pieces, part_bytes),
            self._tell,
            what=f"model of round {number}",
            is_upload=True,
            total_bytes=num_bytes_of(self._run.specs),
            size_of=len,
        )
        name = self._topology.model_blob(self._run.run_id, number)
        name = self._transport.write_blob(name, parts)
        return Staged(blob=BlobRef(name=name, part_bytes=part_bytes))

    def _stage_file(self, number: int) -> Staged:
        return self.stage(number, self._directory.model(number - 1).pieces(self._run.specs))

    def publish(self, number: int, body: Staged, *, is_finished: bool = False) -> None:
        """Publishes the model that round ``number`` begins with. Doing it again changes nothing for readers."""
        settings = self._settings
        head = ModelHead(
            tensors=self._run.specs,
            sha256=self._ledger.model_sha256(number - 1),
            run=settings.run,
            run_id=self._run.run_id,
            epoch=self._run.epoch,
            round=number,
            num_rounds=settings.rounds,
            is_finished=is_finished,
            seed=settings.seed,
            max_staleness=settings.max_staleness,
            local=settings.local,
            compression=settings.update_compression,
            shared=settings.shared.patterns,
            num_shards=settings.shards,
            weighting=settings.weighting,
            name_conflicts=self._names_in_conflict(),
            blob=body.blob,
        )
        self._transport.broadcast(encode(head, body.payload))
        if body.blob is not None:
            self._delete_outdated(number, is_finished=is_finished)
        self._head = head

    def tell_conflict(self, worker: str) -> bool:
        """Tells the workers of one name of each other; False if that was done before.

        The open round's head goes out again; its blob, which somebody may be reading, stays as it is.
        """
        if worker in self._conflicts or self._head is None:
            return False
        self._conflicts.add(worker)
        if self._head.blob is None:
            self.publish(self._head.round, self._stage_file(self._head.round))
        else:
            self._head = self._head.model_copy(update={"name_conflicts": self._names_in_conflict()})
            self._transport.broadcast(encode(self._head))
        return True

    def _names_in_conflict(self) -> tuple[str, ...]:
        return tuple(sorted(self._conflicts))[:_MAX_CONFLICTS]

    def _delete_outdated(self, number: int, *, is_finished: bool) -> None:
        """The model before this one may still be on its way to somebody, unless the run is over; older ones are not."""
        first = 1 if is_finished else 2
        outdated = [self._topology.model_blob(self._run.run_id, number - back) for back in range(first, 4)]
        self._transport.delete_blobs(outdated)

    def _delete_earlier_run(self, head: ModelHead | None) -> None:
        """The final model of a finished run stays until another run is on the queue."""
        if head is not None and head.is_finished and head.blob is not None:
            self._transport.delete_blobs([head.blob.name])
