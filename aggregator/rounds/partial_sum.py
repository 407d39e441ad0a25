"""A partial sum as a message: made by the partial aggregator of a shard, read by the root."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aggregator.bodies import Body, InMessage
from aggregator.rounds.accumulator import Accumulator
from aggregator.rounds.exact_sum import ExactSum
from aggregator.rounds.intake import Expected, Update, check_body, foreign_sets, row_of
from aggregator.state import UpdateRow, Verdict
from broker import Delivery, Transport
from broker.wire import (
    BlobRef,
    Buffer,
    Digest,
    Folded,
    ModelHead,
    PartialHead,
    Topology,
    UpdateHead,
    cut,
    decode,
    difference,
    encode,
    partial_key,
)
from console import UnfitMessage


def folded_of(update: Update) -> Folded:
    """What a partial sum says about an update in it."""
    head = update.head
    return Folded(
        worker=head.worker,
        instance=head.instance,
        num_samples=head.num_samples,
        num_bytes=update.num_wire_bytes,
        train_s=head.train_s,
        sent_at=head.sent_at,
        train_metrics=head.train_metrics,
        eval_metrics=head.eval_metrics,
    )


def partial_head(
    model: ModelHead, exact_sum: ExactSum, updates: Sequence[Folded], *, shard: int, sequence: int
) -> PartialHead:
    """The head of the sum of these updates, which were trained from ``model``; it does not name its blob yet."""
    digest = Digest(exact_sum.specs)
    for piece in exact_sum.limb_pieces():
        digest.add(piece)
    return PartialHead(
        tensors=exact_sum.specs,
        sha256=digest.hex(),
        run_id=model.run_id,
        round=model.round,
        shard=shard,
        num_shards=model.num_shards,
        sequence=sequence,
        bound=exact_sum.bound,
        updates=tuple(updates),
    )


def send_partial(
    head: PartialHead,
    exact_sum: ExactSum,
    transport: Transport,
    topology: Topology,
    *,
    inline_cap: int,
    part_bytes: int,
) -> None:
    """Returns once the root's queue holds the sum durably. BlobLost if its blob is deleted meanwhile."""
    if head.num_bytes <= inline_cap:
        body = encode(head, b"".join(exact_sum.limb_pieces()))
    else:
        name = topology.partial_blob(head.shard, head.run_id, head.round, head.sequence)
        name = transport.write_blob(name, cut(exact_sum.limb_pieces(), part_bytes))
        body = encode(head.model_copy(update={"blob": BlobRef(name=name, part_bytes=part_bytes)}))
    transport.send_partial(body, shard=head.shard)


@dataclass(frozen=True, slots=True)
class PartialSum:
    """A partial sum that is valid as far as its header shows."""

    head: PartialHead
    payload: memoryview
    """Empty when the body is in a blob."""

    @property
    def shard(self) -> int:
        return self.head.shard

    @property
    def claims(self) -> tuple[Folded, ...]:
        return self.head.updates

    @property
    def base_round(self) -> int:
        return self.head.round

    @property
    def blob_name(self) -> str | None:
        return self.head.blob.name if self.head.blob else None

    @property
    def is_zstd(self) -> bool:
        return False

    @property
    def keys(self) -> frozenset[tuple[int, str]]:
        return frozenset((self.head.round, folded.worker) for folded in self.head.updates)

    @property
    def in_message(self) -> InMessage:
        return InMessage(self.head, self.payload, is_zstd=False)

    def __str__(self) -> str:
        return f"sum of shard {self.head.shard}"

    def row(self, claim: UpdateHead | Folded, verdict: Verdict, *, received_at: float, round_number: int) -> UpdateRow:
        """The ledger row of one update in it, in the open round, still without reason and weight."""
        return row_of(claim, verdict, base_round=self.base_round, received_at=received_at, round_number=round_number)

    def received(self, num_bytes: int) -> None:
        """Its updates say themselves how large they were."""

    def pieces(self, body: Body) -> Iterator[tuple[int, Buffer]]:
        """(offset, bytes) of the limbs, piece by piece; raises what ``Body.pieces`` raises."""
        return body.pieces()

    def add_piece(self, accumulator: Accumulator, offset: int, piece: Buffer, weights: Sequence[float]) -> None:
        accumulator.add_limbs(offset, piece, bound=self.head.bound)

    def remove_piece(self, accumulator: Accumulator, offset: int, piece: Buffer, weights: Sequence[float]) -> None:
        accumulator.remove_limbs(offset, piece, bound=self.head.bound)


def read_partial(delivery: Delivery, expected: Expected, *, round_number: int) -> PartialSum:
    """The partial sum in a delivery; a MessageError that says what is wrong with it, if anything is."""
    head, payload = decode(delivery.body, PartialHead)
    if partial_key(head.shard) != delivery.sender:
        raise UnfitMessage(f"claims to be of shard {head.shard}, but came with the key '{delivery.sender}'")
    if head.run_id != expected.run_id:
        raise UnfitMessage(f"partial sum of run {head.run_id}; this is run {expected.run_id}")
    if not 1 <= head.round <= round_number:
        raise UnfitMessage(f"partial sum for round {head.round}, which is not open; the open one is {round_number}")
    problem = foreign_sets(head) or difference(expected.encoding.folded, head.tensors)
    if problem:
        raise UnfitMessage(f"partial sum of shard {head.shard} for round {head.round} {problem}")
    own_blob = expected.topology.partial_blob(head.shard, head.run_id, head.round, head.sequence)
    check_body(head, payload, own_blob=own_blob)
    return PartialSum(head, payload)
