"""Which tensors a state has, without their values: names, dtypes, shapes; their order, their bytes, their digest.

Tensors travel in one canonical order: item size, largest first, then name by code point. They follow each other
without gaps, little-endian, row-major; so each one begins at a multiple of its item size, and a cut at a multiple of
8 bytes never splits an element.

The digest of a state is the SHA-256 of ``msgpack([[name, dtype, [dim, ...]], ...])`` in that order, followed by
the payload. It is the ``model_sha256`` of a summary and the ``sha256`` of a message; ``blake3`` is the same by BLAKE3,
in half the time, for bodies that are large.

Nothing here needs PyTorch, which takes seconds to import: a command that only looks does not load it.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgpack
from blake3 import blake3
from pydantic import Field, StrictInt, StrictStr

from broker.wire.buffers import Buffer

T = TypeVar("T")

DtypeName = Literal["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
ITEM_BYTES: dict[DtypeName, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}

MAX_TENSOR_NAME = 512
"""Characters."""

MAX_BATCH_BYTES = 2**18
"""Of several tensors that are taken at once: what is copied to bring them together stays in the processor's cache."""


class TensorSpec(NamedTuple):
    """Name, dtype and shape of one tensor, without its values."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=MAX_TENSOR_NAME)]
    dtype: DtypeName
    shape: Annotated[
        tuple[Annotated[StrictInt, Field(ge=0, lt=2**40)], ...],
        Field(max_length=16),
    ]

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.item_bytes

    @property
    def is_float(self) -> bool:
        return "float" in self.dtype


Specs = tuple[TensorSpec, ...]


class KeptSpecs(Specs):
    """Specs kept for a whole run: what every message needs of them is worked out once."""

    is_valid = False
    """Whether they have been checked, and may travel."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    @cached_property
    def num_bytes(self) -> int:
        return sum(spec.num_bytes for spec in self)

    @cached_property
    def num_elements(self) -> int:
        return sum(self.sizes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self)

    @cached_property
    def dtypes(self) -> tuple[DtypeName, ...]:
        return tuple(spec.dtype for spec in self)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(spec.shape for spec in self)

    @cached_property
    def sizes(self) -> list[int]:
        """The number of elements of each tensor."""
        return [spec.num_elements for spec in self]

    @cached_property
    def shape_of_all(self) -> tuple[int, ...] | None:
        """The shape that all tensors have; None if they differ."""
        return self[0].shape if len(set(self.shapes)) == 1 else None

    @cached_property
    def empty(self) -> tuple[TensorSpec, ...]:
        """Those of tensors without elements, whose shapes no size bounds."""
        return tuple(spec for spec, size in zip(self, self.sizes, strict=True) if not size)

    @cached_property
    def batches(self) -> tuple["KeptSpecs", ...]:
        """The same, in their order, in runs of neighbours of one dtype that are small together, to be taken at once.

        A larger tensor is a batch alone.
        """
        together = small_together(self, num_bytes=attrgetter("num_bytes"), kind=attrgetter("dtype"))
        return tuple(map(KeptSpecs, together))

    @cached_property
    def packed(self) -> bytes:
        """In msgpack, as in a header and at the beginning of a digest."""
        return msgpack.packb([list(spec) for spec in self])  # type: ignore[no-any-return]

    @cached_property
    def sha256(self) -> str:
        """Of ``packed``, in hex."""
        return hashlib.sha256(self.packed).hexdigest()

    @cached_property
    def by_sets(self) -> "dict[tuple[str, ...], dict[str, KeptSpecs]]":
        """What ``split_specs`` has found, by the names of the sets."""
        return {}

    @cached_property
    def of_delta(self) -> "KeptSpecs":
        """What ``delta_specs`` returns."""
        changed = canonical(
            spec if spec.is_float else spec._replace(dtype="int64") for spec in self if spec.dtype != "bool"
        )
        return self if changed == self else changed


def small_together(
    items: Iterable[T], *, num_bytes: Callable[[T], int], kind: Callable[[T], object]
) -> Iterator[list[T]]:
    """The items, in their order, in runs of neighbours of one kind, of at most ``MAX_BATCH_BYTES`` or of one item."""
    batch: list[T] = []
    room, kind_of_batch = 0, None
    for item in items:
        size, its_kind = num_bytes(item), kind(item)
        if batch and (size > room or its_kind != kind_of_batch):
            yield batch
            batch = []
        if not batch:
            room, kind_of_batch = MAX_BATCH_BYTES, its_kind
        batch.append(item)
        room -= size
    if batch:
        yield batch


def kept(specs: Specs) -> KeptSpecs:
    """The same specs as KeptSpecs; the same object if they are that already."""
    return specs if isinstance(specs, KeptSpecs) else KeptSpecs(specs)


def canonical(specs: Iterable[TensorSpec]) -> KeptSpecs:
    """The specs in the order in which their tensors travel."""
    return KeptSpecs(sorted(specs, key=lambda spec: (-spec.item_bytes, spec.name)))


def num_bytes_of(specs: Specs) -> int:
    """The size of the payload that these specs describe, in bytes."""
    return kept(specs).num_bytes


def num_elements_of(specs: Specs) -> int:
    """How many values these tensors have."""
    return kept(specs).num_elements


DigestFunction = Literal["sha256", "blake3"]
_FUNCTIONS: dict[DigestFunction, Callable[[bytes], Any]] = {"sha256": hashlib.sha256, "blake3": blake3}


class BodyDigest(NamedTuple):
    """What a header says of its body: 32 bytes, in hex, and by which function."""

    function: DigestFunction
    hex: str


class Digest:
    """The digest of a state, fed piece by piece."""

    def __init__(self, specs: Specs, function: DigestFunction = "sha256") -> None:
        self.function = function
        self._hash = _FUNCTIONS[function](kept(specs).packed)

    def add(self, piece: Buffer) -> None:
        self._hash.update(piece)

    def of(self, pieces: Iterable[Buffer]) -> Iterator[Buffer]:
        """The same pieces, each added to the digest before it is yielded."""
        for piece in pieces:
            self.add(piece)
            yield piece

    def hex(self) -> str:
        return str(self._hash.hexdigest())

    def told(self) -> BodyDigest:
        """As a header has it."""
        return BodyDigest(self.function, self.hex())


def difference(wanted: Sequence[TensorSpec], given: Sequence[TensorSpec]) -> str | None:
    """How ``given`` differs from ``wanted``, in words for a person; None if they are the same."""
    if given == wanted:
        return None
    theirs = {spec.name: spec for spec in given}
    for spec in wanted:
        other = theirs.pop(spec.name, None)
        if other is None:
            return f"has no tensor {spec.name!r}"
        if other.dtype != spec.dtype:
            return f"has tensor {spec.name!r} of dtype {other.dtype}, not {spec.dtype}"
        if tuple(other.shape) != tuple(spec.shape):
            return f"has tensor {spec.name!r} of shape {list(other.shape)}, not {list(spec.shape)}"
    for name in theirs:
        return f"has a tensor {name!r} that the model does not have"
    return None


def delta_specs(specs: Specs) -> KeptSpecs:
    """The specs of an update of a model with these specs.

    Floating-point tensors travel in their own dtype, BatchNorm's statistics among them; integer ones as int64,
    since a difference may leave their range; boolean ones do not travel: the model keeps its own.
    """
    return kept(specs).of_delta


def update_specs(specs: Specs, operations: Collection[str]) -> KeptSpecs:
    """The specs of an update: of the tensors with these names; without any, of all, as ``delta_specs`` has them."""
    if not operations:
        return delta_specs(specs)
    return delta_specs(canonical(spec for spec in specs if spec.name in operations))
