"""Is this update one of ours, and does it fit? Nothing here is believed that the message says of itself."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from aggregator.ledger import UpdateRow, Verdict
from broker.codec import decode
from broker.errors import UnfitMessage
from broker.messages import Folded, Tensors, UpdateHead
from broker.tensors import Buffer, Digest, Specs, difference
from broker.topology import Topology
from broker.transport import Delivery, Transport


@dataclass(frozen=True, slots=True)
class Expected:
    """What an update of this run looks like."""

    run_id: str
    specs: Specs
    """Those of a delta, in canonical order."""
    topology: Topology


@dataclass(frozen=True, slots=True)
class Update:
    """An update that is what it should be, as far as its header tells."""

    head: UpdateHead
    payload: memoryview
    """Empty when the body is in a blob."""

    @property
    def blob_name(self) -> str | None:
        return self.head.blob.name if self.head.blob else None

    def row(
        self, verdict: Verdict, *, round_number: int, reason: str | None = None, weight: float | None = None
    ) -> UpdateRow:
        """The ledger's row of this update, decided now, in the round that is open."""
        head = self.head
        return row_of(head, verdict, base_round=head.round, round_number=round_number, reason=reason, weight=weight)

    def pieces(self, transport: Transport) -> Iterator[tuple[int, Buffer]]:
        """(offset, bytes) of the body, piece by piece.

        Raises what ``pieces_of`` raises.
        """
        return pieces_of(self.head, self.payload, transport)


def row_of(
    update: UpdateHead | Folded,
    verdict: Verdict,
    *,
    base_round: int,
    round_number: int,
    reason: str | None = None,
    weight: float | None = None,
) -> UpdateRow:
    """The ledger's row of an update that was trained from the model of ``base_round``."""
    now = time.time()
    return UpdateRow(
        received_at=now,
        round=round_number,
        verdict=verdict,
        reason=reason,
        worker=update.worker,
        instance=update.instance,
        base_round=base_round,
        staleness=round_number - base_round,
        num_samples=update.num_samples,
        weight=weight,
        num_bytes=update.num_bytes,
        train_s=update.train_s,
        queue_s=max(0.0, now - update.sent_at),
        train_metrics=update.train_metrics,
        eval_metrics=update.eval_metrics,
    )


def base_weight_of(update: UpdateHead | Folded, weighting: str) -> int:
    """What an update counts with, before a discount for staleness; the mean is over the sum of these."""
    return update.num_samples if weighting == "samples" else 1


def pieces_of(head: Tensors, payload: Buffer, transport: Transport) -> Iterator[tuple[int, Buffer]]:
    """(offset, bytes) of the body that a head is of, piece by piece.

    Raises UnfitMessage instead of giving the last piece if the digest is not the announced one, or a part
    has not the announced size; BlobLost if the blob cannot be read to its end.
    """
    digest = Digest(head.tensors)
    offset = 0
    for piece, size in _sized(head, payload, transport):
        if len(piece) != size:
            raise UnfitMessage(f"its body has a part of {len(piece)} bytes where {size} were announced")
        digest.add(piece)
        if offset + size == head.num_bytes and digest.hex() != head.sha256:
            raise UnfitMessage("its body is not the one that its digest is of")
        yield offset, piece
        offset += size


def _sized(head: Tensors, payload: Buffer, transport: Transport) -> Iterator[tuple[Buffer, int]]:
    blob, num_bytes = head.blob, head.num_bytes
    if blob is None:
        yield payload, num_bytes
        return
    num_parts = blob.num_parts(num_bytes)
    for index, part in enumerate(transport.read_blob(blob.name, num_parts)):
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
    problem = difference(expected.specs, head.tensors)
    if problem:
        raise UnfitMessage(f"update from {head.worker} for round {head.round} {problem}")
    check_body(head, payload, own_blob=expected.topology.update_blob(head.worker, head.run_id, head.round))
    return Update(head, payload)


def check_body(head: Tensors, payload: Buffer, *, own_blob: str) -> None:
    """An UnfitMessage unless the body is in the message, of the right size, or in the sender's own blob."""
    if head.blob is None:
        if len(payload) != head.num_bytes:
            raise UnfitMessage(f"its body has {len(payload)} bytes; its tensors need {head.num_bytes}")
    elif payload:
        raise UnfitMessage("it has a body of its own and names a blob too")
    elif not re.fullmatch(re.escape(own_blob) + r"(\.\d)?", head.blob.name):
        raise UnfitMessage(f"it names a blob that is not its own: {head.blob.name}")
