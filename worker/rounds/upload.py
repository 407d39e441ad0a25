"""An update's body on its way out: in its message, or as a blob; compressed and sealed as the head asks."""

from dataclasses import dataclass

from broker import Transport
from broker.states import Encoding, MaskedEncoding, State, chunks
from broker.wire import MAX_PART_BYTES, BlobRef, ModelHead, Outgoing, Seal, Specs, Topology, cut, kept, num_bytes_of
from console import with_progress
from identities import Sealing, UpdateContext
from worker.events import Watcher


@dataclass(frozen=True, slots=True)
class Body:
    """What a header says of a body, and the body itself if it is in the message."""

    payload: bytes
    blob: BlobRef | None
    sha256: str
    sealed: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploader:
    """Sends the bodies of one worker's updates."""

    name: str
    instance: str
    transport: Transport
    topology: Topology
    inline_cap: int
    """For runs that do not set it."""
    sealing: Sealing
    on_event: Watcher

    def send(self, head: ModelHead, encoding: Encoding | MaskedEncoding, encoded: State) -> Body:
        """The body of an update from this model; a large one is at the broker by then. BlobLost if it was deleted.

        A sealed body has a fresh key each time. One that is masked is not sealed: only its keepers can do anything
        with it.
        """
        specs = encoding.encoded
        is_sealed = "sealed" in head.protection and head.masking is None
        seal, sealed = self._seal(head, specs) if is_sealed else (None, None)
        num_bytes = num_bytes_of(specs)
        body = Outgoing(specs, num_bytes, zstd=head.compression.zstd, seal=seal)
        pieces = chunks(encoded, specs)
        if num_bytes <= head.cap(self.inline_cap):
            return Body(body.whole(pieces), None, body.sha256, sealed)
        part_bytes = head.blob.part_bytes if head.blob else MAX_PART_BYTES
        parts = with_progress(
            cut(pieces, part_bytes),
            self.on_event,
            what=f"update for round {head.round}",
            is_upload=True,
            total_bytes=num_bytes,
            size_of=len,
        )
        name = self.topology.update_blob(self.name, head.run_id, head.round)
        name = self.transport.write_blob(name, body.parts(parts))
        return Body(b"", BlobRef(name=name, part_bytes=part_bytes), body.sha256, sealed)

    def _seal(self, head: ModelHead, specs: Specs) -> tuple[Seal, str]:
        context = UpdateContext(
            run_id=head.run_id,
            round=head.round,
            worker=self.name,
            instance=self.instance,
            model_sha256=head.sha256,
            specs_sha256=kept(specs).sha256,
        )
        return self.sealing.seal(context)
