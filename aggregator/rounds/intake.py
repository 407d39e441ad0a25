"""Is this update one of ours, and does it fit? Nothing that a message says about itself is taken on trust."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aggregator.bodies import Body, InMessage
from aggregator.rounds.accumulator import Accumulator
from aggregator.senders import Guard
from aggregator.state import UpdateRow, Verdict
from broker import Delivery
from broker.states import Encoding, MaskedEncoding
from broker.wire import (
    MAX_HEADER_BYTES,
    MAX_PART_BYTES,
    SEAL_BYTES,
    Buffer,
    Folded,
    Masking,
    Message,
    PartialHead,
    Reply,
    Seal,
    SealedSeed,
    Signer,
    Specs,
    Tensors,
    Topology,
    UpdateHead,
    decode_from,
    difference,
    is_name_of,
    kept,
    mask_sizes,
    name_of_masked,
    num_bytes_of,
)
from console import DamagedBody, ForgedMessage, ReplayedMessage, UnfitMessage
from identities import Membership, UpdateContext

_HEADER_BYTES = 2**16
"""More than the header of an update takes, without the specs of its tensors: metrics are most of it."""
_PREFETCH_BYTES = 64 * 2**20
_MAX_PREFETCH = 256
_MIN_PREFETCH = 4


def _unknown(round_number: int) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Expected:
    """What an update of this run must look like."""

    run_id: str
    encoding: Encoding | MaskedEncoding
    """How it travels, and what is folded from it."""
    topology: Topology
    part_bytes: Collection[int] = (MAX_PART_BYTES,)
    """The sizes of part that workers cut a body into: that of the model they had, see ``part_bytes_of``."""
    model_sha256: Callable[[int], str | None] = _unknown
    """The digest of the model that a round trains from; None if it is not known here."""
    membership: Membership = field(default_factory=Membership)
    """What it has to be, and whose it may be."""
    base_sha256: str | None = None
    """The digest of the frozen parameters here that do not travel; None if there are none."""
    requires_same_base: bool = False
    """Whether an update that was trained with others is refused."""

    @property
    def masking(self) -> Masking | None:
        """How updates are masked; None: they are not."""
        return self.encoding.masking if isinstance(self.encoding, MaskedEncoding) else None

    @property
    def max_tensors(self) -> int:
        """Beyond so many it is not looked at which one is wrong."""
        return 2 * len(self.encoding.encoded) + 100


@dataclass(slots=True)
class Update:
    """An update that is valid as far as its header shows."""

    head: UpdateHead
    payload: memoryview
    """Empty when the body is in a blob."""
    encoding: Encoding | MaskedEncoding
    num_wire_bytes: int
    """The bytes received: the message, and its blob once that was read."""
    guard: Guard
    """What it may do to the round."""
    seal: Seal | None = None
    """What opens its body; None: that is in clear."""
    signer: Signer | None = None
    """Who signed it; None where senders are believed."""

    shard: ClassVar[None] = None

    @property
    def claims(self) -> tuple[UpdateHead]:
        return (self.head,)

    @property
    def base_round(self) -> int:
        return self.head.round

    @property
    def blob_name(self) -> str | None:
        return self.head.blob.name if self.head.blob else None

    @property
    def is_zstd(self) -> bool:
        return self.head.compression.zstd > 0

    @property
    def keys(self) -> frozenset[tuple[int, str]]:
        return frozenset([(self.head.round, self.head.worker)])

    @property
    def in_message(self) -> InMessage:
        return InMessage(self.head, self.payload, is_zstd=self.is_zstd, seal=self.seal)

    def __str__(self) -> str:
        return f"update of {self.head.worker}"

    def size_of(self, claim: UpdateHead | Folded) -> int:
        return self.num_wire_bytes

    def received(self, num_bytes: int) -> None:
        self.num_wire_bytes += num_bytes

    def pieces(self, body: Body) -> Iterator[tuple[int, Buffer]]:
        """(offset, bytes) of the delta to fold, in the specs of ``encoding.folded``, piece by piece.

        Raises what ``Body.pieces`` raises, and UnfitMessage on values that no encoder writes.
        """
        return self.encoding.folded_from(body.pieces())

    def add_piece(self, accumulator: Accumulator, offset: int, piece: Buffer, weights: Sequence[float]) -> None:
        self.guard.check(offset, piece)
        accumulator.add(offset, piece, weights[0], most=self.guard.most)

    def remove_piece(self, accumulator: Accumulator, offset: int, piece: Buffer, weights: Sequence[float]) -> None:
        accumulator.remove(offset, piece, weights[0])


def row_of(
    claim: UpdateHead | Folded,
    verdict: Verdict,
    *,
    base_round: int,
    received_at: float,
    round_number: int,
    num_bytes: int,
    **more: Any,
) -> UpdateRow:
    """The ledger row of an update that was trained from the model of ``base_round``, with ``more`` of its fields."""
    return UpdateRow(
        received_at=received_at,
        round=round_number,
        verdict=verdict,
        worker=claim.worker,
        instance=claim.instance,
        base_round=base_round,
        staleness=round_number - base_round,
        num_samples=claim.num_samples,
        num_bytes=num_bytes,
        train_s=claim.train_s,
        queue_s=max(0.0, received_at - claim.sent_at),
        train_metrics=all_metrics(claim.train_metrics, claim.train_not_finite),
        eval_metrics=all_metrics(claim.eval_metrics, claim.eval_not_finite),
        figures={str(name): figure for name, figure in claim.figures.items()},
        is_fresh=claim.is_fresh,
        **more,
    )


def all_metrics(metrics: Mapping[str, float], not_finite: Mapping[str, str]) -> dict[str, float]:
    """The metrics in a header, those that are no finite numbers included."""
    return {name: float(word) for name, word in not_finite.items()} | dict(metrics)


def part_bytes_of(model: Tensors) -> int:
    """The size of the parts that a worker cuts its update of this model into."""
    return model.blob.part_bytes if model.blob else MAX_PART_BYTES


def read_update(delivery: Delivery, expected: Expected, *, round_number: int, guard: Guard | None = None) -> Update:
    """The update in a delivery; a MessageError that says what is wrong with it, if anything is."""
    message = decode_from(delivery.body, UpdateHead, trust=expected.membership.trust, max_tensors=expected.max_tensors)
    head, payload = message.header, message.payload
    check_origin(message, delivery, expected, round_number=round_number)
    if head.compression != expected.encoding.compression:
        raise UnfitMessage(
            f"its compression is {head.compression}; that of this run is {expected.encoding.compression}"
        )
    problem = foreign_sets(head) or difference(expected.encoding.encoded, head.tensors)
    if problem:
        raise UnfitMessage(f"update from {head.worker} for round {head.round} {problem}")
    check_model(head, expected, is_signed=message.signer is not None)
    if expected.masking is None:
        seal = seal_of(head, UpdateContext.of(head), expected.membership)
    else:
        seal = None
        if head.sealed is not None:
            raise UnfitMessage("it is masked, and yet sealed")
        masked_sha256 = name_of_masked(head.digest.hex, head.salt)
        check_masked(head, head, expected, model_sha256=head.model_sha256, masked_sha256=masked_sha256)
    own_blob = expected.topology.update_blob(head.worker, head.run_id, head.round)
    is_sealed = head.sealed is not None
    check_body(head, payload, own_blob=own_blob, is_zstd=head.compression.zstd > 0, is_sealed=is_sealed)
    if head.blob is not None and head.blob.part_bytes not in expected.part_bytes:
        sizes = " or ".join(map(str, sorted(expected.part_bytes)))
        raise UnfitMessage(f"its blob has parts of {head.blob.part_bytes} bytes; this run has parts of {sizes}")
    return Update(head, payload, expected.encoding, len(delivery.body), guard or Guard(), seal, message.signer)


def check_origin(
    message: Message[UpdateHead] | Message[Reply], delivery: Delivery, expected: Expected, *, round_number: int
) -> None:
    """A MessageError unless it is by its sender, of this run, and for a round that is or was open."""
    head = message.header
    message.check_signer(head.worker)
    if head.worker != delivery.sender:
        by_another = UnfitMessage if message.signer is None else ForgedMessage
        raise by_another(f"claims to be from {head.worker}, but came with the key of '{delivery.sender}'")
    outdated = UnfitMessage if message.signer is None else ReplayedMessage
    if head.run_id != expected.run_id:
        raise outdated(f"{head.kind} of run {head.run_id}; this is run {expected.run_id}")
    if not 1 <= head.round <= round_number:
        raise outdated(f"{head.kind} for round {head.round}, which is not open; the open one is {round_number}")


def seal_of(head: UpdateHead | PartialHead, context: UpdateContext, membership: Membership) -> Seal | None:
    """What opens its body; None if that is in clear. An UnfitMessage if that may not be, or if no key here opens it."""
    if head.sealed is not None:
        return membership.sealing.unseal(context, head.sealed)
    if "sealed" in membership.protection:
        raise UnfitMessage("its body is not sealed, and this run asks for sealed updates")
    return None


def check_masked(
    claim: UpdateHead | Folded,
    head: UpdateHead | PartialHead,
    expected: Expected,
    *,
    model_sha256: str | None,
    masked_sha256: str | None,
) -> None:
    """A MessageError unless a masked update has a sealed seed for each keeper, and says nothing of its site.

    ``head`` is of the message it came in. The digests are those of its model and its body; None of one that is not
    known, as of a body that is in a sum: then its seeds have to agree on it.
    """
    masking, trust = expected.masking, expected.membership.trust
    assert masking is not None
    assert isinstance(expected.encoding, MaskedEncoding)
    privacy = expected.encoding.privacy
    num_words, num_halves = mask_sizes(head.tensors)
    if len(claim.seeds) != len(masking.keepers):
        raise UnfitMessage(f"it has {len(claim.seeds)} sealed seeds; this run has {len(masking.keepers)} keepers")
    for keeper, packed in zip(masking.keepers, claim.seeds, strict=True):
        message = decode_from(packed, SealedSeed, trust=trust)
        message.check_signer(claim.worker)
        seed = message.header
        model_sha256, masked_sha256 = model_sha256 or seed.model_sha256, masked_sha256 or seed.masked_sha256
        theirs = (seed.run_id, seed.round, seed.worker, seed.instance, seed.model_sha256, seed.masked_sha256)
        if theirs != (head.run_id, head.round, claim.worker, claim.instance, model_sha256, masked_sha256):
            raise UnfitMessage(f"the seed of {claim.worker} for keeper {keeper} is that of another update")
        if (seed.keeper, seed.num_words, seed.num_halves) != (keeper, num_words, num_halves):
            raise UnfitMessage(f"the seed of {claim.worker} for keeper {keeper} is for another mask")
        if privacy is not None and seed.step != masking.step:
            raise UnfitMessage(f"the seed of {claim.worker} does not say how it was clipped, and this run adds noise")
    says = (claim.train_metrics, claim.eval_metrics, claim.train_not_finite, claim.eval_not_finite, claim.figures)
    if claim.num_samples != 1 or claim.train_s != 0 or any(says):
        raise UnfitMessage("it is masked, and yet says something of its site")


def check_model(head: UpdateHead | Reply, expected: Expected, *, is_signed: bool) -> None:
    """A MessageError if it is not about the model that its round begins with."""
    wanted = expected.model_sha256(head.round)
    if head.model_sha256 is None:
        if is_signed:
            raise UnfitMessage("it does not name the model it was trained from, as a signed update must")
    elif wanted is not None and head.model_sha256 != wanted:
        outdated = ReplayedMessage if is_signed else UnfitMessage
        raise outdated(
            f"it was trained from model {head.model_sha256[:12]}…; that of round {head.round} is {wanted[:12]}…"
        )


def foreign_sets(head: Tensors) -> str | None:
    """The tensor sets that a message has and this run does not, in words; None if there are none."""
    return f"has the tensor sets {', '.join(head.sets)}, but this run has only the model's" if head.sets else None


def check_body(
    head: Tensors, payload: Buffer, *, own_blob: str, is_zstd: bool = False, is_sealed: bool = False
) -> None:
    """An UnfitMessage unless the body is in the message and of the right size, or in the sender's own blob."""
    if head.blob is None:
        if is_zstd:
            if head.num_bytes > MAX_PART_BYTES:
                raise UnfitMessage(f"its body is one zstd frame of {head.num_bytes} bytes; it must be sent in parts")
            return
        wanted = head.num_bytes + (SEAL_BYTES if is_sealed else 0)
        if len(payload) != wanted:
            raise DamagedBody(f"its body has {len(payload)} bytes; its tensors need {wanted}")
    elif payload:
        raise DamagedBody("it has a body of its own and also names a blob")
    elif head.num_bytes == 0:
        raise UnfitMessage("it names a blob for a body of 0 bytes")
    elif not is_name_of(head.blob.name, own_blob):
        raise UnfitMessage(f"it names a blob that is not its own: {head.blob.name}")


def affordable_prefetch(body_bytes: Iterable[int], inline_cap: int) -> int:
    """How many messages with bodies of these sizes may be held unacked, which bounds memory however many wait.

    At most 64 MiB of them, or four; bodies above ``inline_cap`` are in blobs, and their messages are small.
    """
    largest = max((size for size in body_bytes if size <= inline_cap), default=0)
    if largest == 0:
        return _MAX_PREFETCH
    return max(_MIN_PREFETCH, min(_MAX_PREFETCH, _PREFETCH_BYTES // largest))


def largest_message(encoded: Specs, *, sum_bytes: int | None) -> int:
    """The most bytes of a message with an update of these specs, or, with shards, with a sum of so many bytes."""
    bodies = [num_bytes_of(encoded)] + ([] if sum_bytes is None else [sum_bytes])
    header = len(kept(encoded).packed) + _HEADER_BYTES if sum_bytes is None else MAX_HEADER_BYTES
    body = max((size for size in bodies if size <= MAX_PART_BYTES), default=0)
    return header + body + body // 64  # zstd makes what it cannot compress a little longer
