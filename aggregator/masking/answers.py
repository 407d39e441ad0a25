"""What keepers answer: read, and checked against what they were asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from aggregator.bodies import Body, InMessage
from aggregator.rounds import Expected, check_body
from broker import Delivery
from broker.wire import Buffer, Release, Seal, Withheld, decode_from, difference, is_of_kind, mask_sizes, mask_specs
from console import ForgedMessage, UnfitMessage


@dataclass(frozen=True, slots=True)
class Released:
    """A sum of masks that is valid as far as its header shows."""

    head: Release
    payload: memoryview
    """Empty when the body is in a blob."""

    is_zstd: ClassVar[bool] = False
    seal: ClassVar[Seal | None] = None

    @property
    def keys(self) -> frozenset[tuple[int, str]]:
        """It has no updates of its own."""
        return frozenset()

    @property
    def blob_name(self) -> str | None:
        return self.head.blob.name if self.head.blob else None

    @property
    def in_message(self) -> InMessage:
        return InMessage(self.head, self.payload, is_zstd=False)

    def pieces(self, body: Body) -> Iterator[tuple[int, Buffer]]:
        """(offset, bytes) of the integers."""
        return body.pieces()

    def __str__(self) -> str:
        return f"masks from keeper {self.head.keeper}"


def read_answer_of_keeper(delivery: Delivery, expected: Expected) -> Released | Withheld:
    """A keeper's answer; a MessageError if it is not by that keeper, or not of this run."""
    trust = expected.membership.trust
    if is_of_kind(delivery.body, Withheld):
        refusal = decode_from(delivery.body, Withheld, trust=trust)
        refusal.check_signer(refusal.header.keeper)
        _check_origin(refusal.header, delivery, expected)
        return refusal.header
    message = decode_from(delivery.body, Release, trust=trust, max_tensors=2)
    head = message.header
    message.check_signer(head.keeper)
    _check_origin(head, delivery, expected)
    problem = difference(mask_specs(*mask_sizes(expected.encoding.encoded)), head.tensors)
    if problem:
        raise UnfitMessage(f"the masks from keeper {head.keeper} for round {head.round} {problem}")
    check_body(head, message.payload, own_blob=expected.topology.release_blob(head.keeper, head.run_id, head.round))
    return Released(head, message.payload)


def _check_origin(head: Release | Withheld, delivery: Delivery, expected: Expected) -> None:
    if head.keeper != delivery.keeper:
        raise ForgedMessage(f"claims to be from keeper {head.keeper}, but came with the key '{delivery.sender}'")
    if head.run_id != expected.run_id:
        raise UnfitMessage(f"an answer for run {head.run_id}; this is run {expected.run_id}")
