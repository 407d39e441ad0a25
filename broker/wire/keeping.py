"""What passes between workers, aggregator and keepers where updates are masked.

A worker seals the seed of each mask to a keeper, and signs that: the message goes to the aggregator inside the update's
header. The aggregator shows a keeper all of a round's (``KeeperRequest``), and gets the sum of their masks
(``Release``) or why it does not (``Withheld``).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from broker.wire.buffers import Buffer
from broker.wire.headers import (
    EXTRAS,
    MAX_SEED_BYTES,
    Header,
    Instance,
    Objection,
    RoundNumber,
    RunId,
    SealedKey,
    Sha256,
    WorkerName,
)
from broker.wire.messages import Tensors
from broker.wire.specs import KeptSpecs, Specs, TensorSpec, canonical
from console import MalformedMessage

MAX_WORDS = 2**40
MAX_UNFIT = 100
"""Workers that one answer names."""
_LENGTH_BYTES = 4

NumWords = Annotated[StrictInt, Field(ge=0, lt=MAX_WORDS)]


class SealedSeed(Header):
    """The seed of one mask, sealed to one keeper; its worker signs this, and it is good for this one body.

    The numbers that say how much noise the round needs are signed, too: nobody on the way can make them smaller.
    """

    kind: Literal["seed"] = "seed"
    run_id: RunId
    round: RoundNumber
    worker: WorkerName
    instance: Instance
    model_sha256: Sha256
    """The digest of the model it was trained from."""
    masked_sha256: Sha256
    """``name_of_masked`` of the masked body."""
    keeper: WorkerName
    num_words: NumWords
    """How many integers of 8 bytes are masked: they come first."""
    num_halves: NumWords
    """How many of 4 bytes."""
    min_sites: Annotated[StrictInt, Field(ge=1, lt=2**20)]
    """With the updates of fewer sites than this, the worker does not want its own to be summed up."""
    clip: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """The norm that the update was clipped to; None: it was not."""
    step: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """One unit of its integers, if it was clipped."""
    noise: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """The noise that the worker counts on this keeper for, in multiples of ``clip``; None: it counts on none."""
    epsilon: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """The budget that the worker goes by: what all models of the run together may cost; None: it was told of none."""
    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """The delta at which that holds."""
    within_at: NumWords | None = Field(default=None, exclude_if=lambda value: value is None)
    """With an adaptive clip: which of the integers of 8 bytes, from 0, says whether the update was within it."""
    sealed: SealedKey

    @model_validator(mode="after")
    def _noise_needs_both(self) -> Self:
        if (self.clip is None) != (self.step is None):
            raise ValueError("clip and step go together")
        if (self.epsilon is None) != (self.delta is None):
            raise ValueError("epsilon and delta go together")
        if self.within_at is not None and (self.clip is None or self.within_at >= self.num_words):
            raise ValueError("within_at is the place of an integer of 8 bytes, beside a clip")
        return self

    @property
    def context(self) -> tuple[str, ...]:
        """What the seed is sealed for: this mask, and no other."""
        return (
            self.run_id,
            str(self.round),
            self.worker,
            self.instance,
            self.model_sha256,
            self.masked_sha256,
            self.keeper,
        )


class KeeperRequest(Header):
    """What the aggregator asks of a keeper. The payload is ``packed_seeds`` of the messages with the sealed seeds."""

    kind: Literal["request"] = "request"
    run_id: RunId
    round: RoundNumber
    keeper: WorkerName
    is_offer: StrictBool = False
    """Nothing is asked for yet: the keeper may check these seeds, and expand them, until it is."""
    num_words: NumWords
    num_halves: NumWords
    set_sha256: Sha256
    """``digest_of_set`` of the updates whose masks are wanted."""
    seeds_sha256: Sha256
    """The digest of the payload, so that the signature covers it."""


class Release(Tensors):
    """The sum of the masks of all updates of one set, less the keeper's noise.

    ``tensors`` are those of ``mask_specs``.
    """

    kind: Literal["release"] = "release"
    run_id: RunId
    round: RoundNumber
    keeper: WorkerName
    set_sha256: Sha256
    num_updates: Annotated[StrictInt, Field(ge=1, lt=2**30)]
    num_sites: Annotated[StrictInt, Field(ge=1, lt=2**30)]
    noise: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """The standard deviation of the noise, in units of the integers; None: there is none."""


class Withheld(Header):
    """Why a keeper does not give what it was asked for."""

    kind: Literal["withheld"] = "withheld"
    run_id: RunId
    round: RoundNumber
    keeper: WorkerName
    set_sha256: Sha256
    reason: Objection
    is_final: StrictBool
    """Whether no other set of this round can have an answer, either."""
    ends_run: StrictBool = False
    """Whether no later round can: the budget is spent."""
    unfit: Annotated[dict[WorkerName, Objection], Field(max_length=MAX_UNFIT)] = Field(default_factory=dict)
    """Workers whose seeds cannot be used, and why; a set without them may be asked for."""


def mask_specs(num_words: int, num_halves: int) -> KeptSpecs:
    """The specs of a sum of masks: its integers of 8 bytes, then those of 4."""
    given = (TensorSpec("words", "int64", (num_words,)), TensorSpec("halves", "int32", (num_halves,)))
    return canonical(spec for spec in given if spec.num_elements)


def mask_sizes(specs: Specs) -> tuple[int, int]:
    """How many integers of 8 and of 4 bytes a masked update with these specs has."""
    words = sum(spec.num_elements for spec in specs if spec.item_bytes == 8)
    halves = sum(spec.num_elements for spec in specs if spec.item_bytes == 4)
    return words, halves


def place_of_within(specs: Specs) -> int:
    """Which of a masked update's integers of 8 bytes, from 0, is the last one of ``EXTRAS``."""
    words = [spec for spec in specs if spec.item_bytes == 8]
    end = next(index for index, spec in enumerate(words, start=1) if spec.name == EXTRAS)
    return sum(spec.num_elements for spec in words[:end]) - 1


def name_of_masked(digest: str, salt: str | None) -> str:
    """The digest by which seeds name a masked body: that of the body, or with a salt, of both.

    A keeper knows the mask, and with the body's own digest it could find out whether a guess of the whole update is
    right. It does not get the salt.
    """
    return digest if salt is None else hashlib.sha256(bytes.fromhex(digest) + bytes.fromhex(salt)).hexdigest()


def digest_of_set(run_id: str, round_number: int, masked: Iterable[tuple[str, str]]) -> str:
    """The digest of a set of updates, in hex; ``masked`` are (worker, digest of its masked body), in any order."""
    lines = [f"fedmq set v1|{run_id}|{round_number}", *(f"{worker}|{sha256}" for worker, sha256 in sorted(masked))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def packed_seeds(messages: Sequence[Buffer]) -> bytes:
    """Messages one after the other, each with its length before it: 4 bytes, little-endian."""
    return b"".join(len(message).to_bytes(_LENGTH_BYTES, "little") + bytes(message) for message in messages)


def unpacked_seeds(payload: Buffer) -> Iterator[memoryview]:
    """The messages in ``packed_seeds``. A MalformedMessage if it is cut off, or if one is too long."""
    view, offset = memoryview(payload), 0
    while offset < len(view):
        start = offset + _LENGTH_BYTES
        length = int.from_bytes(view[offset:start], "little")
        if length > MAX_SEED_BYTES or start + length > len(view):
            raise MalformedMessage(f"the seeds are cut off, or one has more than {MAX_SEED_BYTES} bytes")
        yield view[start : start + length]
        offset = start + length
