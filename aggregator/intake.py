"""Is this update one of ours, and does it fit? Nothing here is believed that the message says of itself."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from aggregator.ledger import UpdateRow, Verdict
from broker.codec import decode
from broker.compression import Encoding
from broker.errors import UnfitMessage
from broker.messages import MAX_PART_BYTES, UpdateHead
from broker.tensors import Buffer, Digest, difference
from broker.topology import Topology
from broker.transport import Delivery, Transport
from broker.zstd import decompressed


@dataclass(frozen=True, slots=True)
class Expected:
    """What an update of this run looks like."""

    run_id: str
    encoding: Encoding
    """How it travels, and what is folded of it."""
    topology: Topology


@dataclass(slots=True)
class Update:
    """An update that is what it should be, as far as its header tells."""

    head: UpdateHead
    payload: memoryview
    """Empty when the body is in a blob."""
    encoding: Encoding
    num_wire_bytes: int
    """What came of it so far: the message, and the parts of its blob that were read."""

    @property
    def blob_name(self) -> str | None:
        return self.head.blob.name if self.head.blob else None

    def row(
        self, verdict: Verdict, *, round_number: int, reason: str | None = None, weight: float | None = None
    ) -> UpdateRow:
        """The ledger's row of this update, decided now, in the round that is open."""
        head, now = self.head, time.time()
        return UpdateRow(
            received_at=now,
            round=round_number,
            verdict=verdict,
            reason=reason,
            worker=head.worker,
            instance=head.instance,
            base_round=head.round,
            staleness=round_number - head.round,
            num_samples=head.num_samples,
            weight=weight,
            num_bytes=self.num_wire_bytes,
            train_s=head.train_s,
            queue_s=max(0.0, now - head.sent_at),
            train_metrics=head.train_metrics,
            eval_metrics=head.eval_metrics,
        )

    def pieces(self, transport: Transport) -> Iterator[tuple[int, Buffer]]:
        """(offset, bytes) of the delta to fold, in the specs of ``encoding.folded``, piece by piece.

        Raises UnfitMessage instead of giving the last piece if the digest is not the announced one, or a part
        has not the announced size; also at numbers that no encoder writes. BlobLost if the blob cannot be read to
        its end.
        """
        if self.encoding.is_direct:
            yield from self._encoded(transport)
            return
        decoder = self.encoding.decoder()
        for offset, piece in self._encoded(transport):
            yield from decoder.pieces(offset, piece)

    def _encoded(self, transport: Transport) -> Iterator[tuple[int, Buffer]]:
        """(offset, bytes) of the body, without zstd, verified as told in ``pieces``."""
        digest = Digest(self.head.tensors)
        offset = 0
        for part, size in self._sized(transport):
            piece = decompressed(part, size) if self.head.compression.zstd else part
            if len(piece) != size:
                raise UnfitMessage(f"its body has a part of {len(piece)} bytes where {size} were announced")
            digest.add(piece)
            if offset + size == self.head.num_bytes and digest.hex() != self.head.sha256:
                raise UnfitMessage("its body is not the one that its digest is of")
            yield offset, piece
            offset += size

    def _sized(self, transport: Transport) -> Iterator[tuple[Buffer, int]]:
        """Each part as it came, and the size that it has without zstd."""
        blob, num_bytes = self.head.blob, self.head.num_bytes
        if blob is None:
            yield self.payload, num_bytes
            return
        num_parts = blob.num_parts(num_bytes)
        for index, part in enumerate(transport.read_blob(blob.name, num_parts)):
            self.num_wire_bytes += len(part)
            yield part, min(blob.part_bytes, num_bytes - index * blob.part_bytes)


def read_update(delivery: Delivery, expected: Expected, *, round_number: int) -> Update:
    """The update in a delivery. Whatever is wrong with it is a MessageError that says what."""
    head, payload = decode(delivery.body, UpdateHead)
    if head.worker != delivery.sender:
        raise UnfitMessage(f"says that it is from {head.worker}, but came with the key of '{delivery.sender}'")
    if head.run_id != expected.run_id:
        raise UnfitMessage(f"update of run {head.run_id}; this is run {expected.run_id}")
    if not 1 <= head.round <= round_number:
        raise UnfitMessage(f"update for round {head.round}, which is not open; the open one is {round_number}")
    if head.compression != expected.encoding.compression:
        raise UnfitMessage(
            f"its compression is {head.compression}; that of this run is {expected.encoding.compression}"
        )
    problem = difference(expected.encoding.encoded, head.tensors)
    if problem:
        raise UnfitMessage(f"update from {head.worker} for round {head.round} {problem}")
    if head.blob is None:
        if head.compression.zstd:
            if head.num_bytes > MAX_PART_BYTES:
                raise UnfitMessage(f"its body is one zstd frame of {head.num_bytes} bytes; such a one must be in parts")
        elif len(payload) != head.num_bytes:
            raise UnfitMessage(f"its body has {len(payload)} bytes; its tensors need {head.num_bytes}")
    elif payload:
        raise UnfitMessage("it has a body of its own and names a blob too")
    elif not _is_own_blob(head, expected.topology):
        raise UnfitMessage(f"it names a blob that is not its own: {head.blob.name}")
    return Update(head, payload, expected.encoding, len(delivery.body))


def _is_own_blob(head: UpdateHead, topology: Topology) -> bool:
    own = topology.update_blob(head.worker, head.run_id, head.round)
    return head.blob is not None and re.fullmatch(re.escape(own) + r"(\.\d)?", head.blob.name) is not None
