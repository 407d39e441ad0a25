"""An update's body on its way out: in its message, or as a blob; compressed and sealed as the head asks."""

from collections.abc import Iterable
from dataclasses import dataclass

from broker import BodySender, SentBody, Transport
from broker.states import Encoding, MaskedEncoding
from broker.wire import MAX_PART_BYTES, Buffer, ModelHead, Seal, Specs, Topology, kept, num_bytes_of
from identities import Sealing, UpdateContext
from worker.events import Watcher


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

    def send(
        self, head: ModelHead, encoding: Encoding | MaskedEncoding, pieces: Iterable[Buffer]
    ) -> tuple[SentBody, str | None]:
        """The body of an update from this model, made of these pieces, and its sealed key, if it is sealed.

        BlobLost if it was deleted. A sealed body has a fresh key each time. One that is masked is not sealed: only its
        keepers can do anything with it.
        """
        specs = encoding.encoded
        is_sealed = "sealed" in head.protection and head.masking is None
        seal, sealed = self._seal(head, specs) if is_sealed else (None, None)
        sender = BodySender(
            transport=self.transport,
            inline_cap=head.cap(self.inline_cap),
            part_bytes=head.blob.part_bytes if head.blob else MAX_PART_BYTES,
            function=head.digest.function,
            on_event=self.on_event,
        )
        body = sender.send(
            specs,
            pieces,
            num_bytes=num_bytes_of(specs),
            blob_name=self.topology.update_blob(self.name, head.run_id, head.round),
            what=f"update for round {head.round}",
            zstd=head.compression.zstd,
            seal=seal,
        )
        return body, sealed

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
