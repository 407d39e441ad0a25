"""Named tensors as bytes: the payload of a model or an update.

A state (``dict[str, torch.Tensor]``) is laid out in one canonical order: item size, largest first, then name by
code point. Tensors follow each other without gaps, little-endian, row-major; so each one begins at a multiple
of its item size, and a cut at a multiple of 8 bytes never splits an element.

The digest of a state is the SHA-256 of ``msgpack([[name, dtype, [dim, ...]], ...])`` in that order, followed by
the payload. It is the ``model_sha256`` of a summary and the ``sha256`` of every message. What travels of an update is
the delta as a state, or, in a run that compresses, the state that compression.py makes of it.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, get_args

import msgpack
import torch
from pydantic import Field, StrictInt, StrictStr

from broker.errors import UnfitMessage

State = dict[str, torch.Tensor]
Buffer = bytes | bytearray | memoryview
DtypeName = Literal["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(DtypeName)}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorSpec(NamedTuple):
    """Name, dtype and shape of one tensor, without its values."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=512)]
    dtype: DtypeName
    shape: Annotated[
        tuple[Annotated[StrictInt, Field(ge=0, lt=2**40)], ...],
        Field(max_length=16),
    ]

    @property
    def item_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.item_bytes

    @property
    def is_float(self) -> bool:
        return DTYPES[self.dtype].is_floating_point


Specs = tuple[TensorSpec, ...]


class KeptSpecs(Specs):
    """Specs that stay for a whole run: what every message of it asks of them is worked out once."""

    is_valid = False
    """Whether they were found to be such as may travel."""

    @cached_property
    def num_bytes(self) -> int:
        return sum(spec.num_bytes for spec in self)

    @cached_property
    def num_elements(self) -> int:
        return sum(spec.num_elements for spec in self)

    @cached_property
    def packed(self) -> bytes:
        """In msgpack, as they travel in a header, and as a digest begins."""
        return msgpack.packb([list(spec) for spec in self])  # type: ignore[no-any-return]

    @cached_property
    def of_delta(self) -> "KeptSpecs":
        floats = (spec if spec.is_float else spec._replace(dtype="int64") for spec in self if spec.dtype != "bool")
        return canonical(floats)


def kept(specs: Specs) -> KeptSpecs:
    """The same specs; those that are kept already stay what they are."""
    return specs if isinstance(specs, KeptSpecs) else KeptSpecs(specs)


def canonical(specs: Iterable[TensorSpec]) -> KeptSpecs:
    """The specs in the order in which their tensors travel."""
    return KeptSpecs(sorted(specs, key=lambda spec: (-spec.item_bytes, spec.name)))


def specs_of(state: Mapping[str, torch.Tensor]) -> KeptSpecs:
    """The specs of a state, in canonical order. A dtype that cannot travel is an UnfitMessage."""
    return canonical(_spec_of(name, tensor) for name, tensor in state.items())


def _spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    dtype = _NAMES.get(tensor.dtype)
    if dtype is None:
        raise UnfitMessage(
            f"tensor {name!r} is of dtype {tensor.dtype}, which cannot travel; use one of {', '.join(DTYPES)}"
        )
    return TensorSpec(name, dtype, tuple(tensor.shape))  # type: ignore[arg-type]


def num_bytes_of(specs: Specs) -> int:
    """The size of the payload that these specs describe, in bytes."""
    return kept(specs).num_bytes


def limb_bytes_of(specs: Specs) -> int:
    """The size of the exact sum of such payloads, in bytes: an int64 and an int32 an element."""
    return 12 * kept(specs).num_elements


def chunks(state: Mapping[str, torch.Tensor], specs: Specs) -> Iterator[memoryview]:
    """The payload of a state as views of its tensors' memory, one a tensor, nothing copied that is on the CPU."""
    for spec in specs:
        dense = state[spec.name].detach().to("cpu").contiguous()
        yield raw(dense.as_strided((dense.numel(),), (1,)))  # one element or none is contiguous with any stride


def raw(flat: torch.Tensor) -> memoryview:
    """The bytes of a flat tensor; nothing is copied."""
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def flat_tensor(data: bytearray, dtype: DtypeName) -> torch.Tensor:
    """The flat tensor of these bytes; nothing is copied."""
    return torch.frombuffer(data, dtype=DTYPES[dtype]) if data else torch.empty(0, dtype=DTYPES[dtype])


def cut(pieces: Iterable[Buffer], part_bytes: int) -> Iterator[bytes]:
    """The same bytes in parts of ``part_bytes``, the last one shorter, copied once; pieces are held for one part."""
    views: list[memoryview] = []
    room = part_bytes
    for piece in pieces:
        view = memoryview(piece)
        while view:
            views.append(view[:room])
            view = view[room:]
            room -= len(views[-1])
            if room == 0:
                yield b"".join(views)
                views.clear()
                room = part_bytes
    if views:
        yield b"".join(views)


class Digest:
    """The digest of a state, fed piece by piece."""

    def __init__(self, specs: Specs) -> None:
        self._sha = hashlib.sha256(kept(specs).packed)

    def add(self, piece: Buffer) -> None:
        self._sha.update(piece)

    def of(self, pieces: Iterable[Buffer]) -> Iterator[Buffer]:
        """The same pieces, each taken into the digest before it is given."""
        for piece in pieces:
            self.add(piece)
            yield piece

    def hex(self) -> str:
        return self._sha.hexdigest()


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 over names, dtypes, shapes and bytes, as told on top of this file; 64 hex digits."""
    specs = specs_of(state)
    digest = Digest(specs)
    for _ in digest.of(chunks(state, specs)):
        pass
    return digest.hex()


def state_from(payload: bytearray, specs: Specs) -> State:
    """The state whose payload this is. The tensors are views of ``payload``: nothing is copied.

    A size that does not match the specs is an UnfitMessage.
    """
    if len(payload) != num_bytes_of(specs):
        raise UnfitMessage(f"payload has {len(payload)} bytes; its tensors need {num_bytes_of(specs)}")
    state: State = {}
    offset = 0
    for spec in specs:
        dtype = DTYPES[spec.dtype]
        if spec.num_elements:
            tensor = torch.frombuffer(payload, dtype=dtype, count=spec.num_elements, offset=offset)
        else:
            tensor = torch.empty(0, dtype=dtype)
        try:
            state[spec.name] = tensor.reshape(spec.shape)
        except RuntimeError as error:  # no elements, but dimensions whose product overflows
            raise UnfitMessage(f"tensor {spec.name!r} has an impossible shape {list(spec.shape)}") from error
        offset += spec.num_bytes
    return state


def first_not_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """The name of a tensor that holds NaN or infinity, if there is one."""
    return next((name for name, tensor in state.items() if not is_finite(tensor)), None)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether it holds neither NaN nor infinity. One pass that allocates nothing: both extremes of NaN are NaN."""
    if not (tensor.is_floating_point() and tensor.numel()):
        return True
    lowest, highest = torch.aminmax(tensor)
    return math.isfinite(lowest.item()) and math.isfinite(highest.item())


def difference(wanted: Sequence[TensorSpec], given: Sequence[TensorSpec]) -> str | None:
    """What is wrong with ``given`` beside ``wanted``, in words for a person; None if they are the same."""
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
        return f"has a tensor {name!r} that the model has not"
    return None


def delta_specs(specs: Specs) -> KeptSpecs:
    """The specs of an update of a model with these specs.

    Floating-point tensors travel in their own dtype, BatchNorm's statistics among them; integer ones as int64,
    since a difference may leave their range; boolean ones do not travel, the model keeps its own.
    """
    return kept(specs).of_delta
