"""A partial sum as a message: made by the partial aggregator of a shard, read by the root."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from aggregator.bodies import Body, InMessage
from aggregator.rounds.accumulator import Accumulator
from aggregator.rounds.intake import Expected, Update, check_body, check_masked, foreign_sets, seal_of
from broker import BodySender, Delivery, Transport
from broker.wire import (
    Buffer,
    Folded,
    KeptSpecs,
    ModelHead,
    PartialHead,
    Seal,
    Signer,
    Specs,
    Topology,
    UpdateHead,
    decode_from,
    difference,
    encode,
    kept,
    partial_key,
)
from console import UnfitMessage
from identities import Membership, UpdateContext


def folded_of(update: Update) -> Folded:
    """What a partial sum says about an update in it."""
    head = update.head
    return Folded(
        worker=head.worker,
        instance=head.instance,
        num_samples=head.num_samples,
        num_bytes=update.num_wire_bytes,
        base_sha256=head.base_sha256,
        train_s=head.train_s,
        sent_at=head.sent_at,
        train_metrics=head.train_metrics,
        eval_metrics=head.eval_metrics,
        train_not_finite=head.train_not_finite,
        eval_not_finite=head.eval_not_finite,
        figures=head.figures,
        is_fresh=head.is_fresh,
        seeds=head.seeds,
    )


class Sum(Protocol):
    """A sum of several updates, as it travels."""

    @property
    def specs(self) -> Specs:
        """Of the updates in it."""

    @property
    def num_bytes(self) -> int:
        """Its size, all pieces together."""

    @property
    def bound(self) -> float:
        """What no element's sum of |weight * delta| exceeds, where that is known."""

    def limb_pieces(self) -> Iterator[Buffer]:
        """All of it, in pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialSender:
    """Sends the partial sums of one shard to the root."""

    transport: Transport
    topology: Topology
    shard: int
    membership: Membership
    part_bytes: int

    def send(
        self,
        total: Sum,
        updates: Sequence[Folded],
        *,
        model: ModelHead,
        sequence: int,
        inline_cap: int,
    ) -> None:
        """Sends the sum of these updates, which were trained from ``model``; the root's queue has it durably then.

        BlobLost if its blob is deleted meanwhile; a MalformedMessage if the header of so many updates is too large.
        """
        specs = kept(total.specs)
        seal, sealed = self._seal(model, specs, sequence) if "sealed" in model.protection else (None, None)
        sender = BodySender(
            transport=self.transport,
            inline_cap=inline_cap,
            part_bytes=self.part_bytes,
            function=model.digest.function,
        )
        body = sender.send(
            specs,
            total.limb_pieces(),
            num_bytes=total.num_bytes,
            blob_name=self.topology.partial_blob(self.shard, model.run_id, model.round, sequence),
            what=f"sum of shard {self.shard} for round {model.round}",
            seal=seal,
        )
        head = PartialHead(
            tensors=specs,
            **body.header_fields(),
            run_id=model.run_id,
            round=model.round,
            shard=self.shard,
            num_shards=model.num_shards,
            sequence=sequence,
            bound=total.bound,
            sealed=sealed,
            updates=tuple(updates),
        )
        self.transport.send_partial(encode(head, *body.payload, trust=self.membership.trust), shard=self.shard)

    def _seal(self, model: ModelHead, specs: KeptSpecs, sequence: int) -> tuple[Seal, str]:
        return self.membership.sealing.seal(_context_of(model.run_id, model.round, self.shard, sequence, specs))


def _context_of(run_id: str, round_number: int, shard: int, sequence: int, specs: KeptSpecs) -> UpdateContext:
    """That of a sealed sum: in place of worker and instance, its shard and its number."""
    return UpdateContext(
        run_id=run_id,
        round=round_number,
        worker=partial_key(shard),
        instance=str(sequence),
        model_sha256="",
        specs_sha256=specs.sha256,
    )


@dataclass(frozen=True, slots=True)
class PartialSum:
    """A partial sum that is valid as far as its header shows."""

    head: PartialHead
    payload: memoryview
    """Empty when the body is in a blob."""
    seal: Seal | None = None
    """What opens its body; None: that is in clear."""
    signer: Signer | None = None
    """Who signed it; None where senders are believed."""

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
        return InMessage(self.head, self.payload, is_zstd=False, seal=self.seal)

    def __str__(self) -> str:
        return f"sum of shard {self.head.shard}"

    def size_of(self, claim: UpdateHead | Folded) -> int:
        return claim.num_bytes

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
    message = decode_from(delivery.body, PartialHead, trust=expected.membership.trust, max_tensors=expected.max_tensors)
    head, payload = message.header, message.payload
    if partial_key(head.shard) != delivery.sender:
        raise UnfitMessage(f"claims to be of shard {head.shard}, but came with the key '{delivery.sender}'")
    num_shards = expected.topology.num_shards
    if not num_shards:
        raise UnfitMessage(f"partial sum of shard {head.shard}, but this run has no shards")
    if head.num_shards != num_shards:
        raise UnfitMessage(f"partial sum of shard {head.shard} of {head.num_shards}; this run has {num_shards} shards")
    if head.run_id != expected.run_id:
        raise UnfitMessage(f"partial sum of run {head.run_id}; this is run {expected.run_id}")
    if not 1 <= head.round <= round_number:
        raise UnfitMessage(f"partial sum for round {head.round}, which is not open; the open one is {round_number}")
    problem = foreign_sets(head) or difference(expected.encoding.folded, head.tensors)
    if problem:
        raise UnfitMessage(f"partial sum of shard {head.shard} for round {head.round} {problem}")
    _check_masks(head, expected)
    own_blob = expected.topology.partial_blob(head.shard, head.run_id, head.round, head.sequence)
    context = _context_of(head.run_id, head.round, head.shard, head.sequence, kept(head.tensors))
    seal = seal_of(head, context, expected.membership) if expected.masking is None else None
    check_body(head, payload, own_blob=own_blob, is_sealed=head.sealed is not None)
    return PartialSum(head, payload, seal, message.signer)


def _check_masks(head: PartialHead, expected: Expected) -> None:
    """A MessageError unless its updates are masked where the run's are, and each has what keepers need of it."""
    if expected.masking is None:
        if head.are_masked:
            raise UnfitMessage(f"partial sum of shard {head.shard} of masked updates; those of this run are not masked")
        return
    if not head.are_masked:
        raise UnfitMessage(
            f"partial sum of shard {head.shard} of updates that are not masked, as those of this run are"
        )
    for claim in head.updates:
        check_masked(claim, head, expected, model_sha256=expected.model_sha256(head.round), masked_sha256=None)
